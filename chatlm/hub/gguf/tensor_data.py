"""The weights of a GGUF file: dequantized a few rows at a time, straight from the mapped file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any

from chatlm.hub.gguf.dequantize import CHUNK_VALUES, UnreadableType, dequantize
from chatlm.hub.gguf.file import GgufError, GgufFile

if TYPE_CHECKING:
    import torch


class Change(Enum):
    """What llama.cpp's converter did to a tensor, undone here."""

    NONE = "none"
    UNPERMUTE = "unpermute"
    """The rows of queries and keys are in the order of interleaved rotation."""
    MINUS_ONE = "minus one"
    """The norm is stored as 1 + its weight."""
    UNSQUEEZE = "unsqueeze"
    """The kernel of a convolution over each channel has lost a dimension of 1."""
    TRANSPOSE = "transpose"
    """The matrices of the experts are transposed."""
    JOIN = "join"
    """Two matrices of the file are one, the rows of the second after those of the first."""
    ALTERNATE = "alternate"
    """Two matrices or biases of the file are one, their rows alternating; matrices are transposed
    as well."""

    LOG_NEGATED = "log negated"
    """Decays are stored as -exp of their parameters, with or without a dimension of 1."""
    FLATTEN = "flatten"
    """A vector is stored as a matrix."""


@dataclass(frozen=True)
class TiledHeads:
    """Heads that share a key, which the file has one group after the other (Qwen 3.5): the first of
    each key, then the second of each, and so on."""

    keys: int
    """Number of keys."""
    heads: int
    """Number of heads of each key."""
    size: int = 1
    """Rows or columns of a head."""
    offset: int = 0
    """Rows before the first head."""
    columns: bool = False

    def order(self) -> torch.Tensor:
        """Return where each row or column is in the file, so that the heads of a key are
        together."""
        import torch

        count = self.keys * self.heads * self.size
        order = torch.arange(count).reshape(self.heads, self.keys, self.size)
        order = order.transpose(0, 1).reshape(-1) + self.offset
        return torch.cat([torch.arange(self.offset), order])


@dataclass(frozen=True)
class TensorSource:
    """How one tensor of a transformers checkpoint is made from tensors of the file."""

    names: tuple[str, ...]
    """In the file: one, or those that are joined."""
    expert: int | None = None
    """Which expert of a tensor that holds them all."""
    change: Change = Change.NONE
    heads: int = 0
    """Number of heads whose rows are reordered."""
    tiled: TiledHeads | None = None
    """How heads are reordered, before anything else."""

    def shape(self, file: GgufFile) -> tuple[int, ...]:
        """Return the shape in the checkpoint."""
        shape = file.tensors[self.names[0]].shape
        if self.expert is not None:
            shape = shape[1:]
        match self.change:
            case Change.UNSQUEEZE:
                return (shape[0], 1, *shape[1:])
            case Change.TRANSPOSE:
                return (*shape[:-2], shape[-1], *shape[-2:-1])
            case Change.LOG_NEGATED | Change.FLATTEN:
                return (prod(shape),)
            case Change.JOIN:
                return (*shape[:-2], 2 * shape[-2], shape[-1])
            case Change.ALTERNATE if len(shape) > 2:
                return (*shape[:-2], shape[-1], 2 * shape[-2])
            case Change.ALTERNATE:
                return (*shape[:-1], 2 * shape[-1])
            case _:
                return shape

    @property
    def only_rows_move(self) -> bool:
        """Whether the tensor is rows of one tensor of the file, unchanged, in `row_order`."""
        return self.change in (Change.NONE, Change.UNPERMUTE) and not (
            self.tiled and self.tiled.columns
        )

    def row_order(self, rows: int) -> torch.Tensor | None:
        """Return which row of the file each row is; None for the same."""
        import torch

        if self.change is Change.UNPERMUTE:
            pairs = torch.arange(rows).reshape(self.heads, rows // self.heads // 2, 2)
            return pairs.transpose(1, 2).reshape(rows)
        return self.tiled.order() if self.tiled and not self.tiled.columns else None

    def column_order(self) -> torch.Tensor | None:
        """Return which column of the file each column is; None for the same."""
        return self.tiled.order() if self.tiled and self.tiled.columns else None

    def rows(self, file: GgufFile) -> slice:
        """Return which rows of the file's tensor it has, all but the last dimension counted as
        rows."""
        count = prod(file.tensors[self.names[0]].shape[:-1])
        if self.expert is None:
            return slice(0, count)
        count //= file.tensors[self.names[0]].shape[0]
        return slice(self.expert * count, (self.expert + 1) * count)

    def read(self, file: GgufFile, dtype: torch.dtype) -> torch.Tensor:
        """Read it in a number format."""
        import torch

        parts = [self._read_part(file, name, dtype) for name in self.names]
        part, shape = parts[0], parts[0].shape
        match self.change:
            case Change.UNSQUEEZE:
                return part.unsqueeze(1)
            case Change.TRANSPOSE:
                return part.transpose(-1, -2).contiguous()
            case Change.LOG_NEGATED | Change.FLATTEN:
                return part.flatten()
            case Change.JOIN:
                return torch.cat(parts, dim=-2)
            case Change.ALTERNATE if part.dim() > 2:
                rows = torch.stack(parts, dim=-2).reshape(*shape[:-2], -1, shape[-1])
                return rows.transpose(-1, -2).contiguous()
            case Change.ALTERNATE:
                return torch.stack(parts, dim=-1).reshape(*shape[:-1], -1)
            case _:
                return part

    def _read_part(self, file: GgufFile, name: str, dtype: torch.dtype) -> torch.Tensor:
        import torch

        tensor = file.tensors[name]
        shape = tensor.shape if self.expert is None else tensor.shape[1:]
        rows = self.rows(file)
        out = torch.empty((rows.stop - rows.start, shape[-1]), dtype=dtype)
        step = max(1, CHUNK_VALUES // shape[-1])
        for row in range(0, len(out), step):
            count = min(step, len(out) - row)
            values = torch.from_numpy(_rows(file, name, rows.start + row, count))
            # before rounding, since the precision is near 0
            if self.change is Change.MINUS_ONE:
                values = values - 1.0
            elif self.change is Change.LOG_NEGATED:
                values = torch.log(-values)
            out[row : row + count] = values
        part = out.reshape(shape)
        if (columns := self.column_order()) is not None:
            return part[:, columns].contiguous()
        order = self.row_order(shape[0])
        return part if order is None else part[order]


def check_types(file: GgufFile) -> None:
    """Refuse a file with tensors in a number format that cannot be read.

    Raises:
        GgufError: it has, and the message names the first.
    """
    for tensor in {tensor.type: tensor for tensor in file.tensors.values()}.values():
        _rows(file, tensor.name, 0, 1)


def read_values(file: GgufFile, name: str) -> Any:
    """Read a small tensor as an array of 32-bit floats."""
    shape = file.tensors[name].shape
    return _rows(file, name, 0, prod(shape[:-1])).reshape(shape)


def _rows(file: GgufFile, name: str, first: int, count: int) -> Any:
    """Dequantize rows of a tensor, all but the last dimension counted as rows."""
    tensor = file.tensors[name]
    try:
        return dequantize(file.raw_rows(name)[first : first + count], tensor.type_name)
    except UnreadableType as kind:
        raise GgufError(
            f"{file.path.name} stores the tensor {name[:60]!r} as {kind}, which chatlm does not "
            "read.",
            "Use a file with another quantization, such as Q4_K_M.",
        ) from None
