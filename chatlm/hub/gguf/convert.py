"""Turns a GGUF file into a folder that transformers loads at once: bf16 safetensors and tokenizer.

Run as a module it is the child process of a pull, so that its memory, its messages and its threads
end with it. It does not know where the file came from or where the folder goes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from chatlm.errors import ModelError
from chatlm.hub.disk import FREE_SPACE_HINT, NoSpace, no_space_error, require_space
from chatlm.hub.gguf.architectures import map_tensors, read_config
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

_BYTES_PER_PARAMETER = 2


_SHARD_BYTES = 2_000_000_000
"""Size of the largest file of weights, which is built in memory."""


_NO_SPACE_EXIT_CODE = 3
"""Exit status of the child process when the disk is full."""


_REFUSED_EXIT_CODE = 4
"""Exit status when the file is refused; the last line is message and hint as JSON."""


def convert_gguf(
    gguf: Path,
    output_folder: Path,
    work_folder: Path,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> None:
    """Convert in a child process.

    Args:
        gguf: the file.
        output_folder: where the folder goes; it must not exist.
        work_folder: an existing folder for the child's messages.

    Raises:
        NoSpace: the disk is too full.
        ModelError: the file cannot be read exactly, or it is damaged.
    """
    log = work_folder / "convert.log"
    status = run_child(
        module_command("chatlm.hub.gguf.convert", str(gguf), str(output_folder)),
        log,
        on_poll=lambda: progress("convert", 0, None),
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
            f"{gguf.name} could not be converted: the system ended the conversion, "
            "most likely because the memory was full.",
            "Close other programs, or use a smaller model.",
        )
    raise ModelError(
        f"{gguf.name} could not be converted: {reason}",
        "A safetensors version of the model may work: chatlm models pull ORG/NAME",
    )


def convert_in_process(gguf: Path, output_folder: Path) -> None:
    """Convert a GGUF file to safetensors and tokenizer.json in this process.

    Raises:
        NoSpace: the disk is too full.
        GgufError: the file cannot be read exactly, or it is damaged.
    """
    import transformers

    with GgufFile(gguf) as file:
        config, sources = plan_conversion(file)
        parameters = sum(prod(source.shape(file)) for source in sources.values())
        require_space(output_folder, _BYTES_PER_PARAMETER * parameters, f"to convert {gguf.name}")
        output_folder.mkdir()
        version = {"transformers_version": transformers.__version__}
        _write_json(output_folder / "config.json", config | {"dtype": "bfloat16"} | version)
        generation = read_special_tokens(file).to_config() | read_sampling(file)
        _write_json(output_folder / "generation_config.json", generation | version)
        write_tokenizer(file, output_folder, config["max_position_embeddings"])
        _write_json(output_folder / FACTS_FILE, template_facts(file))
        _write_weights(file, sources, output_folder)


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


def plan_conversion(file: GgufFile) -> tuple[dict[str, Any], dict[str, TensorSource]]:
    """Return the config.json of a file and where each tensor comes from.

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


def _write_weights(file: GgufFile, sources: Mapping[str, TensorSource], folder: Path) -> None:
    """Write the weights in files of about `_SHARD_BYTES`, one in memory at a time."""
    import torch
    from safetensors.torch import save_file

    shards: list[list[str]] = [[]]
    size = 0
    for name, source in sources.items():
        tensor_bytes = _BYTES_PER_PARAMETER * prod(source.shape(file))
        if shards[-1] and size + tensor_bytes > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor_bytes
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        path = folder / (
            "model.safetensors"
            if len(shards) == 1
            else f"model-{number:05}-of-{len(shards):05}.safetensors"
        )
        tensors = {name: sources[name].read(file, torch.bfloat16) for name in names}
        save_file(tensors, path, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, path.name)
    if len(shards) > 1:
        total = _BYTES_PER_PARAMETER * sum(prod(each.shape(file)) for each in sources.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Convert argv[1] into the folder argv[2]; on failure, the last line printed is the reason."""
    exit_with_parent()
    try:
        convert_in_process(Path(sys.argv[1]), Path(sys.argv[2]))
    except NoSpace as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(_NO_SPACE_EXIT_CODE)
    except ModelError as error:
        sys.stderr.write(json.dumps({"message": error.message, "hint": error.hint}) + "\n")
        sys.exit(_REFUSED_EXIT_CODE)


if __name__ == "__main__":
    main()
