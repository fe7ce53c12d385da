"""Reads the tables and numbers of safetensors files and says what is damaged; needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST_TABLE = 20_000_000
"""Bytes; the table of a model with a hundred thousand tensors is smaller."""

_EXPONENTS: Mapping[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}
"""Of each number format the integers as wide, and the bits that are all set where a number is
infinite or none."""


class Damaged(Exception):
    """A file is not what it has to be; the message says why, as the end of a sentence."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Where its numbers begin in the file, in bytes."""
    end: int


def table(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        Damaged: it is no safetensors file, it is cut short, or its table contradicts itself.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or length > min(size - 8, LONGEST_TABLE):
            raise Damaged("is cut short, or is no safetensors file")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            found = {name: _tensor(entry, 8 + length) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Damaged("has a table of tensors that cannot be read") from None
    place = 8 + length
    for name, tensor in sorted(found.items(), key=lambda item: item[1].start):
        if tensor.start != place:
            raise Damaged(f"has a hole or an overlap before the tensor {name}")
        place = tensor.end
    if place > size:
        raise Damaged(f"is cut short: {size:,} of {place:,} bytes are there")
    if place < size:
        raise Damaged("goes on behind its last tensor")
    return found


def _tensor(entry: Any, data: int) -> Tensor:
    shape = tuple(int(number) for number in entry["shape"])
    start, end = (int(number) for number in entry["data_offsets"])
    if min((start, end - start, *shape)) < 0:
        raise ValueError("negative")
    tensor = Tensor(str(entry["dtype"]), shape, data + start, data + end)
    if tensor.dtype in _EXPONENTS:
        width = np.dtype(_EXPONENTS[tensor.dtype][0]).itemsize
        if math.prod(shape) * width != end - start:
            raise ValueError("shape and size differ")
    return tensor


def number_formats() -> tuple[str, ...]:
    """The formats whose numbers can be looked at."""
    return tuple(_EXPONENTS)


def not_finite(path: Path, tensor: Tensor) -> bool:
    """Whether a number of the tensor, in one of `number_formats`, is infinite or none (NaN)."""
    mask = _EXPONENTS[tensor.dtype][1]
    return bool((_bits(path, tensor) & mask == mask).any())


def all_zero(path: Path, tensor: Tensor) -> bool:
    """Whether all numbers of the tensor, in one of `number_formats`, are 0."""
    bits = _bits(path, tensor)
    sign = 1 << (bits.itemsize * 8 - 1)
    return not bool((bits & (sign - 1)).any())


def _bits(path: Path, tensor: Tensor) -> NDArray[np.unsignedinteger[Any]]:
    kind = np.dtype(_EXPONENTS[tensor.dtype][0])
    count = (tensor.end - tensor.start) // kind.itemsize
    return np.fromfile(path, kind, count, offset=tensor.start)


def model_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a model's folder, from the tables of its files.

    Raises:
        Damaged: one of them is damaged.
        OSError: one of them cannot be read.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        shapes |= {name: tensor.shape for name, tensor in table(path).items()}
    return shapes
