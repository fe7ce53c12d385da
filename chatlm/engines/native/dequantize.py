"""The numbers that stored matrices stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from chatlm.engines.model import Unsupported
from chatlm.engines.native.stored_matrix import StoredMatrix
from chatlm.hub.gguf.dequantize import CHUNK_VALUES, UnreadableType, dequantize


def dequantize_rows(matrix: StoredMatrix, first: int = 0, count: int | None = None) -> Tensor:
    """Return rows of a matrix in float32: (count, columns).

    Args:
        matrix: the matrix.
        first: the first row.
        count: how many; None for all that follow.

    Raises:
        Unsupported: its number format cannot be read.
    """
    rows = slice(first, None if count is None else first + count)
    data = matrix.data[rows] if matrix.row_order is None else matrix.data[matrix.row_order[rows]]
    if matrix.type == "BF16":  # faster than gguf's
        values = data.view(torch.bfloat16).float()
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
    out = torch.empty((matrix.rows, matrix.columns), dtype=dtype)
    step = max(1, CHUNK_VALUES // matrix.columns)
    for row in range(0, matrix.rows, step):
        out[row : row + step] = dequantize_rows(matrix, row, step)
    return out
