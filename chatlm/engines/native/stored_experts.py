"""The matrices of a layer's experts as a model's files hold them, read one expert at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from chatlm.engines.native.dequantize import dequantize_rows
from chatlm.engines.native.stored_matrix import StoredMatrix, stored_tensor

MXFP4_GROUP = 32
"""Values that share a scale in MXFP4."""


@dataclass(frozen=True)
class StoredExperts:
    """The same matrix of all experts of a layer; none is read before it is asked for."""

    count: int
    """Number of experts."""
    read: Callable[[int], StoredMatrix]
    """Finds an expert's matrix by its index; one that the file has in another order is copied."""
    biases: Tensor | None = None
    """(experts, rows), float32."""

    def __len__(self) -> int:
        """Return the number of experts."""
        return self.count

    def __getitem__(self, expert: int) -> StoredMatrix:
        """Return an expert's matrix, with its bias."""
        if not 0 <= expert < self.count:
            raise IndexError(f"there is no expert {expert}")
        matrix = self.read(expert)
        if self.biases is None:
            return matrix
        return dataclasses.replace(matrix, bias=self.biases[expert])

    def __iter__(self) -> Iterator[StoredMatrix]:
        """Read one expert after the other."""
        return (self[expert] for expert in range(self.count))

    def with_biases(self, biases: Tensor) -> StoredExperts:
        """Return the same matrices with biases: (experts, rows)."""
        return dataclasses.replace(self, biases=biases.float().contiguous())


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
