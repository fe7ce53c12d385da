"""Matrices as a model's files hold them: memory-mapped, in the file's own number format."""

from __future__ import annotations

import ctypes
import dataclasses
import mmap
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

ELEMENT_TYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
"""Types of matrices that are not quantized, by dtype."""


@dataclass(frozen=True)
class StoredMatrix:
    """A (rows, columns) matrix in a file, which nothing has copied."""

    data: Tensor
    """(rows, bytes of a row), uint8."""
    type: str
    """ggml's name of the number format, such as BF16, Q8_0 or Q4_K."""
    columns: int
    row_order: Tensor | None = None
    """(rows,), int64: row i of the matrix is row `row_order[i]` of `data`; None for the same."""
    column_order: Tensor | None = None
    """(columns,), int64: column i of the matrix is column `column_order[i]` of `data`; None for the
    same."""
    bias: Tensor | None = None
    """(rows,), float32."""
    mapped: tuple[Tensor, ...] | None = None
    """Mapped memory that `data` was made from; None if it is mapped itself."""
    convert: Callable[[], Tensor] | None = None
    """Makes `data`, which has no bytes until then, from another layout; see `loaded`."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.data) if self.row_order is None else len(self.row_order)

    def slice_rows(self, first: int, count: int) -> StoredMatrix:
        """Return some of its rows as a matrix of their own."""
        rows, convert = slice(first, first + count), self.convert
        return dataclasses.replace(
            self,
            convert=convert
            if convert is None or self.row_order is not None
            else lambda: convert()[rows],
            data=self.data[rows] if self.row_order is None else self.data,
            row_order=None if self.row_order is None else self.row_order[rows],
            bias=None if self.bias is None else self.bias[rows].contiguous(),
        )

    def split_rows(self, rows: Sequence[int]) -> tuple[StoredMatrix, ...]:
        """Return its rows as several matrices, one after the other, with so many rows each."""
        starts = accumulate(rows, initial=0)
        return tuple(
            self.slice_rows(start, count) for start, count in zip(starts, rows, strict=False)
        )

    def select_rows(self, indices: Tensor) -> StoredMatrix:
        """Return some of its rows as a matrix of their own, in the order of (rows,) indices."""
        return dataclasses.replace(
            self,
            row_order=indices if self.row_order is None else self.row_order[indices],
            bias=None if self.bias is None else self.bias[indices],
        )

    def loaded(self) -> StoredMatrix:
        """Return the matrix with its data; one that is converted is converted each time."""
        if self.convert is None:
            return self
        return dataclasses.replace(self, data=self.convert(), convert=None)

    def release(self) -> None:
        """Let the system take back the memory of the file's pages; they can be read again."""
        for tensor in (self.data,) if self.mapped is None else self.mapped:
            release_pages(tensor)


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


class TensorReader(Protocol):
    """Finds a model's tensors by their names in transformers."""

    def matrix(self, name: str, rows: int, columns: int) -> StoredMatrix:
        """Return a matrix without its bias.

        Raises:
            Unsupported: there is no such tensor, or it has another shape or an unsupported type.
        """
        ...

    def matrices(self, name: str, rows: Sequence[int], columns: int) -> tuple[StoredMatrix, ...]:
        """Return a matrix without its bias in parts, one after the other, with so many rows each.

        Raises:
            Unsupported: see `matrix`.
        """
        ...

    def vector(self, name: str, *shape: int) -> Tensor:
        """Return a small tensor, such as a norm, a bias or a convolution, in float32.

        Args:
            name: of the tensor.
            shape: its shape, or the number of all its values.

        Raises:
            Unsupported: there is no such tensor, or it has another shape or an unsupported type.
        """
        ...

    def experts(
        self, name: str, count: int, rows: int, columns: int, parts: int
    ) -> tuple[StoredExperts, ...]:
        """Return the matrices of all experts that are one tensor in transformers (gpt-oss).

        Args:
            name: of the tensor, (experts, columns, parts * rows).
            count: number of experts.
            rows: of each matrix.
            columns: of each matrix.
            parts: number of matrices of an expert, whose rows alternate.

        Raises:
            Unsupported: there is no such tensor, or it has another shape or an unsupported type.
        """
        ...

    def stacked_experts(
        self, name: str, count: int, rows: int, columns: int, parts: int
    ) -> tuple[StoredExperts, ...]:
        """Return the matrices of all experts that are one tensor, one after the other (Granite).

        Args:
            name: of the tensor, (experts, parts * rows, columns).
            count: number of experts.
            rows: of each matrix.
            columns: of each matrix.
            parts: number of matrices of an expert.

        Raises:
            Unsupported: there is no such tensor, or it has another shape or an unsupported type.
        """
        ...

    def check_all_used(self, ignored: tuple[str, ...]) -> None:
        """Refuse a model with tensors that were not asked for.

        Args:
            ignored: what the names of tensors begin with that need not be read, such as a copy of
                the embedding.

        Raises:
            Unsupported: there are such tensors.
        """
        ...


def stored_tensor(tensor: Tensor) -> StoredMatrix:
    """Describe a contiguous matrix of one of `ELEMENT_TYPES`."""
    return StoredMatrix(tensor.view(torch.uint8), ELEMENT_TYPES[tensor.dtype], tensor.shape[1])


def release_pages(tensor: Tensor) -> None:
    """Let the system take back the whole pages of a memory-mapped file that a tensor covers.

    They are read from the file again when they are touched, so only a tensor that nothing has
    written to may be passed.
    """
    if not sys.platform.startswith("linux"):
        return  # other systems reclaim clean pages by themselves
    page = mmap.PAGESIZE
    start = -(-tensor.data_ptr() // page) * page
    end = (tensor.data_ptr() + tensor.numel() * tensor.element_size()) // page * page
    if end > start:
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
