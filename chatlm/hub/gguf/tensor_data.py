"""The weights of a GGUF file: dequantized a few rows at a time, straight from the mapped file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any

from chatlm.hub.gguf.file import GgufError, GgufFile

if TYPE_CHECKING:
    import torch

_CHUNK_VALUES = 1 << 22
"""How many weights are dequantized at once, as 32-bit floats."""


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
    """Decays are stored as -exp of their parameters."""


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

    def group(self, tensor: torch.Tensor) -> torch.Tensor:
        """Bring the heads of each key together."""
        import torch

        count = self.keys * self.heads * self.size
        order = torch.arange(count).reshape(self.heads, self.keys, self.size)
        order = order.transpose(0, 1).reshape(-1)
        if self.columns:
            return tensor[:, order].contiguous()
        return torch.cat([tensor[: self.offset], tensor[self.offset :][order]])


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
            case Change.JOIN:
                return (*shape[:-2], 2 * shape[-2], shape[-1])
            case Change.ALTERNATE if len(shape) > 2:
                return (*shape[:-2], shape[-1], 2 * shape[-2])
            case Change.ALTERNATE:
                return (*shape[:-1], 2 * shape[-1])
            case _:
                return shape

    def read(self, file: GgufFile, dtype: torch.dtype) -> torch.Tensor:
        """Read it in a number format."""
        import torch

        parts = [self._read_part(file, name, dtype) for name in self.names]
        part, shape = parts[0], parts[0].shape
        match self.change:
            case Change.UNPERMUTE:
                pairs = part.reshape(self.heads, shape[0] // self.heads // 2, 2, *shape[1:])
                return pairs.transpose(1, 2).reshape(shape).contiguous()
            case Change.UNSQUEEZE:
                return part.unsqueeze(1)
            case Change.TRANSPOSE:
                return part.transpose(-1, -2).contiguous()
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
        first = 0 if self.expert is None else self.expert * prod(shape[:-1])
        rows, width = prod(shape[:-1]), shape[-1]
        step = max(1, _CHUNK_VALUES // width)
        out = torch.empty((rows, width), dtype=dtype)
        for row in range(0, rows, step):
            count = min(step, rows - row)
            values = torch.from_numpy(_rows(file, name, first + row, count))
            # before rounding, since the precision is near 0
            if self.change is Change.MINUS_ONE:
                values = values - 1.0
            elif self.change is Change.LOG_NEGATED:
                values = torch.log(-values)
            out[row : row + count] = values
        part = out.reshape(shape)
        return self.tiled.group(part) if self.tiled else part


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
    import numpy as np
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    tensor = file.tensors[name]
    row_bytes = tensor.bytes // prod(tensor.shape[:-1])
    raw = file.raw(name)[first * row_bytes : (first + count) * row_bytes]
    kind = GGMLQuantizationType(tensor.type)
    stored = {GGMLQuantizationType.F32: "<f4", GGMLQuantizationType.F16: "<f2"}
    if kind in stored:
        values = raw.view(stored[kind]).astype(np.float32)
    else:
        try:
            values = dequantize(raw.reshape(count, row_bytes), kind)
        except NotImplementedError:
            raise GgufError(
                f"{file.path.name} stores the tensor {name[:60]!r} as {kind.name}, which chatlm "
                "does not read.",
                "Use a file with another quantization, such as Q4_K_M.",
            ) from None
    return np.ascontiguousarray(values.reshape(count, tensor.shape[-1]), dtype=np.float32)
