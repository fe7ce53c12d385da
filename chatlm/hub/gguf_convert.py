"""Turns a GGUF file into a folder that transformers loads at once: bf16 safetensors and tokenizer.

Run as a module it is the child process of a pull, so that its memory, its messages and its threads
end with it. It does not know where the file came from or where the folder goes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from chatlm.errors import ModelError
from chatlm.hub.disk import FREE_SPACE_HINT, NoSpace, no_space_error, require_space
from chatlm.hub.jobs import (
    CancelCheck,
    ProgressCallback,
    exit_with_parent,
    last_lines,
    module_command,
    run_child,
    was_killed,
)

_BYTES_PER_PARAMETER = 2


_NO_SPACE_EXIT_CODE = 3
"""Exit status of the child process when the disk is full."""


_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


_DIGITS_THEN_BYTE_LEVEL = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
}


PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": _BYTE_LEVEL,
    "smollm": _DIGITS_THEN_BYTE_LEVEL,
    "starcoder": _DIGITS_THEN_BYTE_LEVEL,
    "refact": _DIGITS_THEN_BYTE_LEVEL,
    "command-r": _DIGITS_THEN_BYTE_LEVEL,
    "codeshell": _DIGITS_THEN_BYTE_LEVEL,
}
"""How text is split before merging, by `tokenizer.ggml.pre`.

Only what transformers' own converter leaves out; for every other name its result is kept.
"""


_IGNORE_MERGES = ("llama-bpe", "llama3", "llama-v3")
"""Vocabularies whose words are tokens even if no merges produce them."""


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
        ModelError: the file's architecture is not supported, or it is damaged.
    """
    log = work_folder / "convert.log"
    status = run_child(
        module_command("chatlm.hub.gguf_convert", str(gguf), str(output_folder)),
        log,
        on_poll=lambda: progress("convert", 0, None),
        cancelled=cancelled,
        extra_env={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    if status == 0:
        return
    reason = last_lines(log, 1)
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
        "Its architecture may not be supported; a safetensors version of the model works.",
    )


def convert_in_process(gguf: Path, output_folder: Path) -> None:
    """Convert a GGUF file to safetensors and tokenizer.json in this process."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    require_space(output_folder, _BYTES_PER_PARAMETER * parameters, f"to convert {gguf.name}")
    model.save_pretrained(output_folder)
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(output_folder)
    fix_pre_tokenizer(output_folder / "tokenizer.json", pre_tokenizer_name(gguf))


def fix_pre_tokenizer(path: Path, pre_tokenizer: str | None) -> None:
    """Set the pre-tokenizer in a tokenizer.json where transformers' converter lacks it."""
    table = json.loads(path.read_text(encoding="utf-8"))
    if pre_tokenizer in PRE_TOKENIZERS:
        table["pre_tokenizer"] = PRE_TOKENIZERS[pre_tokenizer]
        table["decoder"] = _BYTE_LEVEL
    elif pre_tokenizer in _IGNORE_MERGES:
        table["model"]["ignore_merges"] = True
    path.write_text(json.dumps(table, ensure_ascii=False, indent=2), encoding="utf-8")


def pre_tokenizer_name(gguf: Path) -> str | None:
    """Return the value of `tokenizer.ggml.pre`; None if the file has none."""
    from gguf import GGUFReader

    field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    return None if field is None else str(field.contents())


def main() -> None:
    """Convert argv[1] into the folder argv[2]; on failure, the last line printed is the reason."""
    exit_with_parent()
    try:
        convert_in_process(Path(sys.argv[1]), Path(sys.argv[2]))
    except NoSpace as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(_NO_SPACE_EXIT_CODE)


if __name__ == "__main__":
    main()
