"""The files of weights in a model folder: safetensors, or a GGUF file with what was read from it.

A folder with both is one of safetensors.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from chatlm.errors import ModelError
from chatlm.hub.gguf.file import GgufError, GgufFile, split_paths
from chatlm.hub.gguf.known_templates import FACTS_FILE

Shape = tuple[int, ...]

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
"""Extensions of weights that can run code when loaded."""

MMPROJ_FILE = "mmproj.gguf"
"""The vision encoder of a GGUF model, which is none of its weights."""

INDEX_FILE = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """List the files of weights in a folder, sorted; a pipe of such a name is none."""
    return _files(folder, "*.safetensors") or [
        path for path in _files(folder, "*.gguf") if path.name != MMPROJ_FILE
    ]


def gguf_file(folder: Path) -> Path | None:
    """Return the GGUF file of a folder, or its first part; None for a folder of safetensors."""
    files = weight_files(folder)
    return files[0] if files and files[0].suffix == ".gguf" else None


def weights_problem(folder: Path) -> tuple[str, str] | None:
    """Return what is wrong with the weights of a folder and a hint; None if they are complete."""
    again = "Copy or download the model again; the folder is not complete."
    files = weight_files(folder)
    if not files:
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES)
        if pickled:
            return (
                f"its weights are pickle files ({', '.join(pickled[:3])}), which can run code",
                "Use a version of the model that has *.safetensors files.",
            )
        return "it has no *.safetensors or *.gguf weights", again
    if files[0].suffix == ".gguf":
        return _gguf_problem(folder, files)
    if (folder / INDEX_FILE).is_file():
        listed = read_json(folder / INDEX_FILE)
        shards = _shard_names(listed.get("weight_map")) if isinstance(listed, dict) else None
        if shards is None:
            return f"its {INDEX_FILE} is damaged", again
        missing = sorted(name for name in set(shards) if not (folder / name).is_file())
        if missing:
            return f"weights are missing ({', '.join(missing[:3])})", again
    broken = [path.name for path in files if not _is_complete(path)]
    return (f"{broken[0]} is cut short or damaged", again) if broken else None


def _gguf_problem(folder: Path, files: list[Path]) -> tuple[str, str] | None:
    if not (folder / FACTS_FILE).is_file():
        return "chatlm did not make it", f"Give the file itself: {files[0]}"
    if len({split_paths(path)[0] for path in files}) > 1:
        return "it has several GGUF files", "Keep one of them in the folder."
    try:
        GgufFile(files[0]).close()
    except GgufError as error:
        return error.message.removesuffix("."), error.hint
    return None


def tensor_shapes(folder: Path) -> dict[str, Shape]:
    """Return the shape of each tensor of a model, by its name in transformers.

    Args:
        folder: of the model.

    Raises:
        ModelError: a file of weights cannot be read.
    """
    if path := gguf_file(folder):
        from chatlm.hub.architecture import read_config
        from chatlm.hub.gguf.architectures import map_tensors

        with GgufFile(path) as file:
            sources = map_tensors(file, read_config(folder))
            return {name: source.shape(file) for name, source in sources.items()}
    shapes: dict[str, Shape] = {}
    for path in weight_files(folder):
        header = safetensors_header(path)
        if header is None:
            raise ModelError(
                f"{path} is cut short or damaged.", "Copy or download the model again."
            )
        shapes |= {name: tuple(tensor["shape"]) for name, tensor in header.items()}
    return shapes


def count_parameters(folder: Path) -> int:
    """Count the parameters of the model in a folder."""
    return parameters_by_type(folder).total()


def parameters_by_type(folder: Path) -> Counter[str]:
    """Count the parameters of the model in a folder by the number format that stores them."""
    parameters: Counter[str] = Counter()
    if gguf_file(folder):
        facts = read_json(folder / FACTS_FILE)
        found = facts.get("parameters") if isinstance(facts, dict) else None
        if isinstance(found, dict) and all(type(count) is int for count in found.values()):
            parameters.update(found)
        return parameters
    for path in weight_files(folder):
        for tensor in (safetensors_header(path) or {}).values():
            parameters[tensor["dtype"]] += prod(tensor["shape"])
    return parameters


_SAMPLE_BYTES = 4096


_SAMPLE_COUNT = 64
"""Blocks that identify a weights file; any training changes all of them."""


def fingerprint_weights(folder: Path) -> str:
    """Return a fingerprint of a model's weights without reading them in full: 32 hex digits.

    The same weights in another folder have the same.

    Args:
        folder: of the model.
    """
    digest = hashlib.sha256()
    for number, path in enumerate(weight_files(folder)):
        size = path.stat().st_size
        # a GGUF file keeps the name that its maker or the user gave it
        name = path.name if path.suffix != ".gguf" else f"{number}.gguf"
        digest.update(f"{name} {size} ".encode())
        with path.open("rb") as file:
            for block in range(_SAMPLE_COUNT):
                file.seek(max(size - _SAMPLE_BYTES, 0) * block // (_SAMPLE_COUNT - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def safetensors_header(path: Path) -> dict[str, Any] | None:
    """Read the header of a safetensors file: tensor name -> dtype, shape, data_offsets.

    None when the file is not safetensors or its data is cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            return None
        header = _parse_json(file.read(length))
    if not isinstance(header, dict):
        return None
    header.pop("__metadata__", None)
    if not all(map(_is_tensor_entry, header.values())):
        return None
    end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    return header if 8 + length + end == size else None


def read_json(path: Path) -> Any:
    """Read JSON; None where there is no such file, or it is damaged or nested too deeply."""
    try:
        return _parse_json(path.read_bytes())
    except OSError:
        return None


def _parse_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _shard_names(weight_map: Any) -> set[str] | None:
    """Return the files of an index; None unless each is the name of a file beside it."""
    if not isinstance(weight_map, Mapping):
        return None
    names = list(weight_map.values())
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        return None
    return set(names)


def _is_tensor_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    return _are_sizes(shape) and _are_sizes(offsets) and len(offsets or ()) == 2


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 63 for value in values
    )


def _is_complete(path: Path) -> bool:
    return path.stat().st_size > 0 and safetensors_header(path) is not None
