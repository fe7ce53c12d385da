"""Matrices as a model's files hold them: memory-mapped, in the file's own number format."""

from __future__ import annotations

import ctypes
import dataclasses
import mmap
import sys
from dataclasses import dataclass
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

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.data) if self.row_order is None else len(self.row_order)

    def slice_rows(self, first: int, count: int) -> StoredMatrix:
        """Return some of its rows as a matrix of their own."""
        rows = slice(first, first + count)
        return dataclasses.replace(
            self,
            data=self.data[rows] if self.row_order is None else self.data,
            row_order=None if self.row_order is None else self.row_order[rows],
            bias=None if self.bias is None else self.bias[rows].contiguous(),
        )

    def select_rows(self, indices: Tensor) -> StoredMatrix:
        """Return some of its rows as a matrix of their own, in the order of (rows,) indices."""
        return dataclasses.replace(
            self,
            row_order=indices if self.row_order is None else self.row_order[indices],
            bias=None if self.bias is None else self.bias[indices],
        )

    def release(self) -> None:
        """Let the system take back the memory of the file's pages; they can be read again."""
        release_pages(self.data)


class TensorReader(Protocol):
    """Finds a model's tensors by their names in transformers."""

    def matrix(self, name: str, rows: int, columns: int) -> StoredMatrix:
        """Return a matrix without its bias.

        Raises:
            Unsupported: there is no such tensor, or it has another shape or an unsupported type.
        """
        ...

    def vector(self, name: str, size: int) -> Tensor:
        """Return a vector, such as a norm, a bias or all weights of a convolution, in float32.

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
