"""Make a model's folder from a GGUF file: the file itself beside what transformers reads.

The weights stay in the file, as they are. Its config.json, tokenizer and chat templates are written
by a child process, this module run with -m, so that its memory, its messages and its threads end
with it. It does not know where the file came from or where the folder goes.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from math import prod
from pathlib import Path
from typing import Any

from chatlm.errors import ModelError
from chatlm.hub.checksums import FileRecord
from chatlm.hub.disk import FREE_SPACE_HINT, NoSpace, copy_and_hash, no_space_error, require_space
from chatlm.hub.gguf.architectures import UnknownArchitecture, map_tensors, read_config
from chatlm.hub.gguf.file import GgufError, GgufFile
from chatlm.hub.gguf.known_templates import FACTS_FILE, template_facts
from chatlm.hub.gguf.tensor_data import TensorSource, check_types
from chatlm.hub.gguf.tokenizer import read_special_tokens, write_tokenizer
from chatlm.hub.jobs import (
    CancelCheck,
    ProgressCallback,
    exit_with_parent,
    last_lines,
    module_command,
    run_child,
    was_killed,
)
from chatlm.hub.tensor_check import InvalidConfig, NotChecked, find_wrong_tensors

_NO_SPACE_EXIT_CODE = 3
"""Exit status of the child process when the disk is full."""


_REFUSED_EXIT_CODE = 4
"""Exit status when the file is refused; the last line is message and hint as JSON."""


def prepare_folder(
    gguf: Path,
    output_folder: Path,
    work_folder: Path,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> None:
    """Check a GGUF file and write all but its weights, in a child process.

    Args:
        gguf: the file, or the first part of a split one.
        output_folder: where the folder goes; it must not exist.
        work_folder: an existing folder for the child's messages.

    Raises:
        NoSpace: the disk is too full.
        ModelError: the file cannot be read exactly, or it is damaged.
    """
    log = work_folder / "prepare.log"
    status = run_child(
        module_command("chatlm.hub.gguf_folder", str(gguf), str(output_folder)),
        log,
        on_poll=lambda: progress("prepare", 0, None),
        cancelled=cancelled,
        extra_env={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    if status == 0:
        return
    reason = last_lines(log, 1)
    if status == _REFUSED_EXIT_CODE:
        raise GgufError(**json.loads(reason))
    if status == _NO_SPACE_EXIT_CODE:
        raise NoSpace(reason, FREE_SPACE_HINT)
    if "No space left on device" in reason:
        raise no_space_error(output_folder, "it filled up while writing")
    if was_killed(status):
        raise ModelError(
            f"{gguf.name} could not be read: the system ended the process, "
            "most likely because the memory was full.",
            "Close other programs, or use a smaller model.",
        )
    raise ModelError(
        f"{gguf.name} could not be read: {reason}",
        "A safetensors version of the model may work: chatlm models pull ORG/NAME",
    )


def place_weights(
    files: Mapping[Path, tuple[str, FileRecord]],
    folder: Path,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> None:
    """Put a GGUF file, or its parts, into a model's folder without taking it from its own.

    It is hard-linked where the disk allows it, which takes no space, and copied elsewhere.

    Args:
        files: the file, or its parts; for each its name in the folder and what it is known to be.
        folder: of the model.

    Raises:
        NoSpace: the disk is too full for a copy.
        ModelError: a file changed meanwhile.
    """
    for path, (name, record) in files.items():
        target = folder / name
        try:
            os.link(path.resolve(), target)
        except OSError:  # another disk, no such links there, or the user may not link the file
            require_space(folder, record.bytes, f"to copy {path.name}")
            with path.open("rb") as file:
                digest = copy_and_hash(
                    file, target, record.bytes, stage="copy", progress=progress, cancelled=cancelled
                )
            if digest != record.sha256:
                raise ModelError(f"{path} changed while it was copied.", "Try again.") from None


def prepare_in_process(gguf: Path, output_folder: Path) -> None:
    """Write all but the weights of a GGUF file's folder, in this process.

    Raises:
        GgufError: the file cannot be read exactly, or it is damaged.
    """
    import transformers

    with GgufFile(gguf) as file:
        try:
            config, sources = read_model(file)
            tensors = {name for source in sources.values() for name in source.names}
        except UnknownArchitecture:
            config, tensors = read_unknown_config(file), set(file.tensors)
        output_folder.mkdir()
        # what is computed with where nothing else is asked for
        version = {"transformers_version": transformers.__version__}
        _write_json(output_folder / "config.json", config | {"dtype": "bfloat16"} | version)
        generation = read_special_tokens(file).to_config() | read_sampling(file)
        _write_json(output_folder / "generation_config.json", generation | version)
        write_tokenizer(file, output_folder, config["max_position_embeddings"])
        parameters = {"parameters": _parameters_by_type(file, tensors)}
        _write_json(output_folder / FACTS_FILE, template_facts(file) | parameters)


def read_unknown_config(file: GgufFile) -> dict[str, Any]:
    """Return a config.json for an architecture that only a plugin's runtime may know.

    Raises:
        GgufError: the file holds no model that generates text, or does not say its context length.
    """
    name = file.architecture
    if f"{name}.pooling_type" in file or file.get(f"{name}.attention.causal") is False:
        raise GgufError(
            f"{file.path.name} does not generate text: it turns texts into vectors.",
            "Choose a model for chats.",
        )
    length = file.get(f"{name}.context_length")
    if not isinstance(length, int) or length < 1:
        raise GgufError(
            f"{file.path.name} does not say how long its context is ({name}.context_length).",
            "Download it again, from another source if it stays so.",
        )
    config = {
        "model_type": f"gguf {name}",  # so that it is taken for none of transformers
        "architectures": ["GgufForCausalLM"],
        "max_position_embeddings": length,
        "vocab_size": file.array_length("tokenizer.ggml.tokens"),
    }
    return config | read_special_tokens(file).to_config()


def _parameters_by_type(file: GgufFile, tensors: Collection[str]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name in tensors:
        counts[file.tensors[name].type_name] += prod(file.tensors[name].shape)
    return dict(counts.most_common())


_SAMPLING_KEYS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
}
"""Names in `general.sampling`, with those in a generation config."""


def read_sampling(file: GgufFile) -> dict[str, float]:
    """Return the sampling that a file recommends, as in a generation config.

    Mirostat and the number of tokens that a penalty looks back at have no counterpart.
    """
    values = {name: file.get(f"general.sampling.{key}") for key, name in _SAMPLING_KEYS.items()}
    return {
        name: float(f"{value:.7g}") if isinstance(value, float) else value  # it has 32 bits
        for name, value in values.items()
        if isinstance(value, int | float)
    }


def read_model(file: GgufFile) -> tuple[dict[str, Any], dict[str, TensorSource]]:
    """Return the config.json of a file and where each tensor comes from, all checked.

    Raises:
        GgufError: the file cannot be read exactly, lacks tensors or has too many.
    """
    config = read_config(file)
    sources = map_tensors(file, config)
    check_types(file)
    config |= read_special_tokens(file).to_config()
    rows, tokens = config["vocab_size"], file.array_length("tokenizer.ggml.tokens")
    if tokens > rows:
        raise GgufError(
            f"{file.path.name} is damaged: it has {tokens:,} tokens but embeddings of {rows:,}.",
            "Download it again, from another source if it stays so.",
        )
    try:
        wrong = find_wrong_tensors(
            config, {name: source.shape(file) for name, source in sources.items()}
        )
    except (NotChecked, InvalidConfig) as reason:
        why = reason.message if isinstance(reason, InvalidConfig) else reason
        raise GgufError(
            f"{file.path.name} is damaged: {why}.",
            "Download it again, from another source if it stays so.",
        ) from reason
    if wrong:
        shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3:,} more" if wrong[3:] else "")
        raise GgufError(
            f"The tensors of {file.path.name} do not fit its architecture {file.architecture}: "
            f"{shown}.",
            "Download it again, from another source if it stays so.",
        )
    return config, sources


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Make the folder argv[2] for argv[1]; on failure, the last line printed is the reason."""
    exit_with_parent()
    try:
        prepare_in_process(Path(sys.argv[1]), Path(sys.argv[2]))
    except NoSpace as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(_NO_SPACE_EXIT_CODE)
    except ModelError as error:
        sys.stderr.write(json.dumps({"message": error.message, "hint": error.hint}) + "\n")
        sys.exit(_REFUSED_EXIT_CODE)


if __name__ == "__main__":
    main()
