"""Random rows of a matrix in each number format of ggml.

All bits of a block are random except its scale, so a row decodes to noise of the asked-for size,
whatever reads it. The gguf package cannot quantize most of these types, and none as fast.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

_FLOATS: dict[str, tuple[str, int, int, int]] = {
    "F32": ("<u4", 23, 127, 0x807FFFFF),
    "F16": ("<u2", 10, 15, 0x83FF),
    "BF16": ("<u2", 7, 127, 0x807F),
}
"""Unsigned type, bits of the mantissa, bias of the exponent, and mask of sign and mantissa."""

_FLOAT_SIZE = math.sqrt(7 / 3)
"""Root mean square of a random mantissa between 1 and 2."""

_Field = tuple[str, str] | tuple[str, str, int]

_BLOCKS: dict[str, list[_Field]] = {
    "Q4_0": [("d", "<f2"), ("rest", "u1", 16)],
    "Q4_1": [("d", "<f2"), ("minimum", "<f2"), ("rest", "u1", 16)],
    "Q5_0": [("d", "<f2"), ("rest", "u1", 20)],
    "Q5_1": [("d", "<f2"), ("minimum", "<f2"), ("rest", "u1", 20)],
    "Q8_0": [("d", "<f2"), ("rest", "u1", 32)],
    "Q2_K": [("rest", "u1", 80), ("d", "<f2"), ("minimum", "<f2")],
    "Q3_K": [("rest", "u1", 108), ("d", "<f2")],
    "Q4_K": [("d", "<f2"), ("minimum", "<f2"), ("rest", "u1", 140)],
    "Q5_K": [("d", "<f2"), ("minimum", "<f2"), ("rest", "u1", 172)],
    "Q6_K": [("rest", "u1", 208), ("d", "<f2")],
    "IQ4_NL": [("d", "<f2"), ("rest", "u1", 16)],
    "IQ4_XS": [("d", "<f2"), ("rest", "u1", 134)],
    "MXFP4": [("exponent", "u1"), ("rest", "u1", 16)],
}
"""A block's scale, its scale of minima, and all that may be random."""

_MINIMA = {"Q4_1": -7.5, "Q5_1": -15.5, "Q2_K": 1.5, "Q4_K": 7.5, "Q5_K": 15.5}
"""The scale of minima, relative to the scale, with which the values of a block average to 0."""

TYPES = (*_FLOATS, *_BLOCKS)
"""Names of the types."""


def block_size(type_name: str) -> tuple[int, int]:
    """Return the weights and the bytes of a block."""
    weights, size = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
    return int(weights), int(size)


def random_rows(
    type_name: str, columns: int, sizes: NDArray[np.float64], rng: np.random.Generator
) -> Bytes:
    """Return random rows as the bytes of a file: (rows, bytes of a row).

    Args:
        type_name: one of `TYPES`.
        columns: weights of a row, a multiple of the type's block.
        sizes: root mean square of each row's weights, approximately.
        rng: gives the bits.
    """
    weights, size = block_size(type_name)
    if columns % weights:
        raise ValueError(f"{type_name} stores {weights} weights together, not {columns}")
    rows, blocks = len(sizes), columns // weights
    data = np.frombuffer(bytearray(rng.bytes(rows * blocks * size)), np.uint8)
    if type_name in _FLOATS:
        _set_exponents(data, type_name, sizes)
    else:
        _set_scales(data, type_name, np.repeat(sizes, blocks), rng)
    return data.reshape(rows, blocks * size)


def _set_exponents(data: Bytes, type_name: str, sizes: NDArray[np.float64]) -> None:
    unsigned, mantissa_bits, bias, mask = _FLOATS[type_name]
    words = data.view(unsigned).reshape(len(sizes), -1)
    exponents = np.rint(np.log2(sizes / _FLOAT_SIZE)).astype(np.int64) + bias
    words &= words.dtype.type(mask)
    words |= (exponents << mantissa_bits).astype(words.dtype)[:, None]


def _set_scales(
    data: Bytes, type_name: str, sizes: NDArray[np.float64], rng: np.random.Generator
) -> None:
    fields: Any = np.dtype(_BLOCKS[type_name])
    blocks = data.view(fields)
    scales = sizes / _unit_size(type_name)
    if type_name == "MXFP4":
        blocks["exponent"] = np.rint(np.log2(scales)) + 127
        return
    # signs, since the values of a block with no minimum may average to something else than 0
    scales = np.where(rng.integers(0, 2, len(scales), np.uint8), scales, -scales)
    blocks["d"] = scales
    if factor := _MINIMA.get(type_name):
        blocks["minimum"] = blocks["d"].astype(np.float64) * factor


@cache
def _unit_size(type_name: str) -> float:
    """Return the root mean square of random blocks with a scale of 1."""
    fields: Any = np.dtype(_BLOCKS[type_name])
    blocks = np.zeros(64, fields)
    blocks["rest"] = np.random.default_rng(0).integers(0, 256, blocks["rest"].shape, np.uint8)
    if type_name == "MXFP4":
        blocks["exponent"] = 127
    else:
        blocks["d"] = 1.0
        blocks["minimum" if type_name in _MINIMA else "d"] = _MINIMA.get(type_name, 1.0)
    values = gguf.dequantize(blocks.view(np.uint8), GGMLQuantizationType[type_name])
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
