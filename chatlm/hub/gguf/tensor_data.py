"""The weights of a GGUF file: dequantized a few rows at a time, straight from the mapped file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any

from chatlm.hub.gguf.file import GgufFile

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


@dataclass(frozen=True)
class TensorSource:
    """How one tensor of a transformers checkpoint is made from a tensor of the file."""

    name: str
    """In the file."""
    expert: int | None = None
    """Which expert of a tensor that holds them all."""
    change: Change = Change.NONE
    heads: int = 0
    """Number of heads whose rows are reordered."""

    def shape(self, file: GgufFile) -> tuple[int, ...]:
        """Return the shape in the checkpoint."""
        shape = file.tensors[self.name].shape
        if self.expert is not None:
            shape = shape[1:]
        return (shape[0], 1, *shape[1:]) if self.change is Change.UNSQUEEZE else shape

    def read(self, file: GgufFile, dtype: torch.dtype) -> torch.Tensor:
        """Read it in a number format."""
        import torch

        tensor = file.tensors[self.name]
        shape = tensor.shape if self.expert is None else tensor.shape[1:]
        first = 0 if self.expert is None else self.expert * prod(shape[:-1])
        rows, width = prod(shape[:-1]), shape[-1]
        step = max(1, _CHUNK_VALUES // width)
        out = torch.empty((rows, width), dtype=dtype)
        for row in range(0, rows, step):
            count = min(step, rows - row)
            values = torch.from_numpy(_rows(file, self.name, first + row, count))
            if self.change is Change.MINUS_ONE:  # before rounding: the precision is near 0
                values = values - 1.0
            out[row : row + count] = values
        result = out.reshape(shape)
        match self.change:
            case Change.UNPERMUTE:
                pairs = result.reshape(self.heads, shape[0] // self.heads // 2, 2, *shape[1:])
                return pairs.transpose(1, 2).reshape(shape).contiguous()
            case Change.UNSQUEEZE:
                return result.unsqueeze(1)
            case _:
                return result


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
        values = dequantize(raw.reshape(count, row_bytes), kind)
    return np.ascontiguousarray(values.reshape(count, tensor.shape[-1]), dtype=np.float32)
