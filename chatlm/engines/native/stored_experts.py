"""The matrices of a layer's experts as a model's files hold them, read one expert at a time."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from chatlm.engines.native.dequantize import dequantize_rows
from chatlm.engines.native.stored_matrix import StoredExperts, StoredMatrix, stored_tensor

MXFP4_GROUP = 32
"""Values that share a scale in MXFP4."""


def stack_matrices(matrices: tuple[StoredMatrix, ...]) -> StoredExperts:
    """Return the experts that a file has one by one."""
    return StoredExperts(len(matrices), matrices.__getitem__)


def transposed_experts(weight: Tensor, parts: int) -> tuple[StoredExperts, ...]:
    """Return the matrices of a tensor with rows and columns swapped (gpt-oss).

    Args:
        weight: (experts, columns, parts * rows), mapped; rows of the parts alternate.
        parts: number of matrices.
    """

    def part(number: int) -> StoredExperts:
        def read(expert: int) -> StoredMatrix:
            rows = weight[expert].T[number::parts].contiguous()
            return dataclasses.replace(stored_tensor(rows), mapped=(weight[expert],))

        return StoredExperts(len(weight), read)

    return tuple(part(number) for number in range(parts))


def mxfp4_experts(blocks: Tensor, scales: Tensor, parts: int) -> tuple[StoredExperts, ...]:
    """Return the matrices of a tensor in MXFP4 (gpt-oss), with the bytes of ggml's type.

    Args:
        blocks: codes of 4 bits, two neighbours in a byte:
            (experts, parts * rows, columns / 32, 16), uint8; rows of the parts alternate.
        scales: exponents of the groups' powers of two, with a bias of 127:
            (experts, parts * rows, columns / 32), uint8.
        parts: number of matrices.
    """

    def part(number: int) -> StoredExperts:
        def read(expert: int) -> StoredMatrix:
            codes = blocks[expert, number::parts]
            even, odd = codes & 15, codes >> 4
            values = torch.stack((even, odd), -1).flatten(-2)
            half = MXFP4_GROUP // 2  # ggml keeps the first half of a group in the low bits
            codes = values[..., :half] | values[..., half:] << 4
            rows = torch.cat((scales[expert, number::parts, :, None], codes), -1).flatten(1)
            columns = blocks.shape[2] * MXFP4_GROUP
            mapped = (blocks[expert], scales[expert])
            return StoredMatrix(rows.contiguous(), "MXFP4", columns, mapped=mapped)

        return StoredExperts(len(blocks), read)

    return tuple(part(number) for number in range(parts))


def dequantize_experts(experts: StoredExperts, dtype: torch.dtype) -> Tensor:
    """Return all matrices in a number format: (experts, rows, columns).

    Raises:
        Unsupported: their number format cannot be read.
    """
    first = experts[0]
    out = torch.empty((len(experts), first.rows, first.columns), dtype=dtype)
    for matrix, rows in zip(experts, out, strict=True):
        rows[:] = dequantize_rows(matrix)
        matrix.release()
    return out
