"""The numbers that stored matrices stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from chatlm.engines.model import Unsupported
from chatlm.engines.native.stored_matrix import StoredMatrix
from chatlm.hub.gguf.dequantize import CHUNK_VALUES, UnreadableType, dequantize

ZERO_POINT_BITS = {"Q4_Z": 4, "Q8_Z": 8}
"""Bits of the formats that ggml does not have: `scale * (code - zero)`, both in float16, for 32
columns each."""


def dequantize_rows(matrix: StoredMatrix, first: int = 0, count: int | None = None) -> Tensor:
    """Return rows of a matrix in float32: (count, columns).

    Args:
        matrix: the matrix.
        first: the first row.
        count: how many; None for all that follow.

    Raises:
        Unsupported: its number format cannot be read.
    """
    matrix = matrix.loaded()
    rows = slice(first, None if count is None else first + count)
    data = matrix.data[rows] if matrix.row_order is None else matrix.data[matrix.row_order[rows]]
    if matrix.type == "BF16":  # faster than gguf's
        values = data.view(torch.bfloat16).float()
    elif matrix.type in ZERO_POINT_BITS:
        values = _dequantize_zero_points(data, ZERO_POINT_BITS[matrix.type])
    else:
        try:
            values = torch.from_numpy(dequantize(data.numpy(), matrix.type))
        except UnreadableType as kind:
            raise Unsupported(f"its weights are stored as {kind}") from None
    return values if matrix.column_order is None else values[:, matrix.column_order]


def dequantize_matrix(matrix: StoredMatrix, dtype: torch.dtype) -> Tensor:
    """Return a whole matrix in a number format, dequantized a few rows at a time.

    Raises:
        Unsupported: its number format cannot be read.
    """
    matrix = matrix.loaded()
    out = torch.empty((matrix.rows, matrix.columns), dtype=dtype)
    step = max(1, CHUNK_VALUES // matrix.columns)
    for row in range(0, matrix.rows, step):
        out[row : row + step] = dequantize_rows(matrix, row, step)
    return out


def _dequantize_zero_points(data: Tensor, bits: int) -> Tensor:
    blocks = data.unflatten(1, (-1, 4 + 4 * bits))
    factors = blocks[..., :4].contiguous().view(torch.float16).float()
    codes = blocks[..., 4:]
    if bits == 4:
        codes = torch.cat((codes & 15, codes >> 4), -1)
    values: Tensor = (codes.float() - factors[..., 1:]) * factors[..., :1]
    return values.flatten(1)
