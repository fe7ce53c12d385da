"""The compiled C kernel, called by ctypes, and the matrices that it packs."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from chatlm.engines.model import Unsupported
from chatlm.engines.native.compiler import KernelUnavailable
from chatlm.engines.native.kv_cache import LANES, allocate_huge_pages
from chatlm.engines.native.stored_matrix import StoredExperts, StoredMatrix

FORMATS = (
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
    "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4", "Q4_Z", "Q8_Z",
)  # fmt: skip
"""Types of stored matrices and formats of packed ones, in the order of the kernel."""

_ROW_MULTIPLE = 64
"""A packed row is padded with zeros to a multiple of it."""

_ALIGNMENT = 64
"""Of a packed matrix, in bytes."""

_OUT_OF_RANGE = 2
"""What `pack_panels` returns for scales that float16 cannot hold."""


class PackedMatrixStruct(ctypes.Structure):
    """The kernel's `PackedMatrix`."""

    _fields_ = (
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("rows", c_int64),
        ("width", c_int64),
        ("format", c_int64),
    )


class StoredMatrixStruct(ctypes.Structure):
    """The kernel's `StoredMatrix`."""

    _fields_ = (
        ("data", c_void_p),
        ("type", c_int64),
        ("row_bytes", c_int64),
        ("rows", c_int64),
        ("columns", c_int64),
        ("row_order", c_void_p),
    )


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix in the kernel's layout."""

    panels: Tensor
    """Bytes."""
    bias: Tensor | None
    """(panels * 16,), float32"""
    rows: int
    """16 rows are a panel."""
    columns: int
    width: int
    """Padded columns."""
    format: str
    """One of `FORMATS`."""
    column_order: Tensor | None = None
    """See `StoredMatrix`: whoever makes the vectors that it is multiplied with follows it."""

    def as_struct(self) -> PackedMatrixStruct:
        """Return the kernel's struct, valid while this object lives."""
        return PackedMatrixStruct(
            self.panels.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            self.rows,
            self.width,
            FORMATS.index(self.format),
        )


class Kernel:
    """The functions of one compiled kernel.

    Args:
        library: as returned by `kernel_library`.
        dtype: for which it was compiled.

    Raises:
        KernelUnavailable: the system cannot load it.
    """

    def __init__(self, library: Path, dtype: torch.dtype) -> None:
        try:
            functions = ctypes.CDLL(str(library))
            functions.panel_bytes.argtypes = (c_int64, c_int64)
            functions.panel_bytes.restype = c_int64
            functions.pack_panels.argtypes = (
                POINTER(StoredMatrixStruct), c_int64, c_int64, c_int64, c_int64, c_void_p,
            )  # fmt: skip
            functions.read_rows.argtypes = (
                c_void_p, c_int64, c_int64, c_int64, c_void_p, c_int64, c_void_p,
            )  # fmt: skip
            functions.read_rows.restype = None
            functions.multiply_matrices.argtypes = (
                c_void_p, POINTER(PackedMatrixStruct), c_int64, c_void_p, c_void_p, c_int64,
                c_int64, c_int64, c_void_p,
            )  # fmt: skip
            functions.multiply_experts.argtypes = (
                c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_void_p,
                c_void_p,
            )  # fmt: skip
            functions.attend_prompt.argtypes = (c_void_p, c_int64, *(c_void_p,) * 5)
            functions.attend_prompt.restype = None
            functions.multiply_lm_head.argtypes = (c_void_p, c_void_p, c_void_p)
            functions.multiply_lm_head.restype = None
            functions.open_decoder.argtypes = (c_void_p, c_int)
            functions.open_decoder.restype = c_void_p
            functions.close_decoder.argtypes = (c_void_p,)
            functions.close_decoder.restype = None
            functions.decode.argtypes = (c_void_p, c_void_p, c_int64, *(c_void_p,) * 4)
            functions.settle.argtypes = (c_void_p, c_void_p)
            functions.settle.restype = None
            functions.max_step_tokens.restype = c_int64
        except (OSError, AttributeError) as error:
            raise KernelUnavailable(f"{library} cannot be loaded: {error}") from error
        self.functions = functions
        self.dtype = dtype

    def pack(self, matrix: StoredMatrix, packed_format: str) -> PackedMatrix:
        """Pack a matrix in its own format, or convert it to F32, BF16, Q8_0 or Q4_1.

        A matrix that Q8_0 or Q4_1 cannot hold, since its weights are too small or too large for
        scales in float16, becomes BF16.

        Raises:
            Unsupported: the type of the matrix is unknown, or its scales are damaged.
            MemoryError: there is not enough memory.
        """
        return self.pack_stack([matrix], packed_format)[0]

    def pack_stack(
        self, matrices: Sequence[StoredMatrix] | StoredExperts, packed_format: str
    ) -> tuple[PackedMatrix, ...]:
        """Pack matrices of the same shape one after the other into one block of memory.

        All have the same format; see `pack`.
        """
        first = matrices[0]
        code, columns, panels = FORMATS.index(packed_format), first.columns, -(-first.rows // LANES)
        width = -(-columns // _ROW_MULTIPLE) * _ROW_MULTIPLE
        # prompts take panels in pairs
        size = (panels + panels % 2) * self.functions.panel_bytes(code, width)
        size += -size % _ALIGNMENT
        memory = allocate_huge_pages(size * len(matrices))
        packed = []
        for number, matrix in enumerate(matrices):
            if matrix.type not in FORMATS:
                raise Unsupported(f"its weights are stored as {matrix.type}")
            if matrix.type != first.type:
                raise Unsupported("its experts are stored in different formats")
            own = memory[number * size : (number + 1) * size]
            loaded = matrix.loaded()
            stored = as_stored_struct(loaded)
            status = self.functions.pack_panels(
                ctypes.byref(stored), code, width, 0, panels, own.data_ptr()
            )
            matrix.release()
            if status == _OUT_OF_RANGE:
                if packed_format == matrix.type:
                    raise Unsupported("its scales are not finite, so the file is damaged")
                return self.pack_stack(matrices, "BF16")
            if status:
                raise MemoryError
            bias = None if matrix.bias is None else pad(matrix.bias, (0, -matrix.rows % LANES))
            packed.append(
                PackedMatrix(
                    own, bias, matrix.rows, columns, width, packed_format, matrix.column_order
                )
            )
        return tuple(packed)

    def read_rows(self, matrix: StoredMatrix, indices: Tensor) -> Tensor:
        """Return rows of a stored matrix in float32: (rows, columns).

        Raises:
            ValueError: it has no such row.
        """
        unknown = indices[(indices < 0) | (indices >= matrix.rows)]
        if len(unknown):
            raise ValueError(f"there is no row {int(unknown[0])} among {matrix.rows}")
        if matrix.row_order is not None:
            indices = matrix.row_order[indices]
        indices = indices.long().contiguous()
        out = torch.empty(len(indices), matrix.columns)
        self.functions.read_rows(
            matrix.data.data_ptr(), FORMATS.index(matrix.type), matrix.data.stride(0),
            matrix.columns, indices.data_ptr(), len(indices), out.data_ptr(),
        )  # fmt: skip
        return out


def as_stored_struct(matrix: StoredMatrix) -> StoredMatrixStruct:
    """Return the kernel's struct, valid while the matrix lives."""
    order = matrix.row_order
    return StoredMatrixStruct(
        matrix.data.data_ptr(),
        FORMATS.index(matrix.type),
        matrix.data.stride(0),
        matrix.rows,
        matrix.columns,
        None if order is None else order.data_ptr(),
    )
