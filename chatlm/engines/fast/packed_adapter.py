"""An adapter as the compiled kernel reads it."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int64, c_void_p

import torch
from torch import Tensor
from torch.nn.functional import pad

from chatlm.engines.fast.low_rank import Additions, LowRank
from chatlm.engines.fast.memory import LANES
from chatlm.engines.fast.shape import Shape

_TARGETS = ("query", "key", "value", "output", "gate", "up", "down")
"""In the kernel's order."""


class Addition(ctypes.Structure):
    """What is added to some rows of a packed matrix."""

    _fields_ = (
        ("down", c_void_p),
        ("up", c_void_p),
        *((name, c_int64) for name in ("rank", "width", "stride", "first", "count")),
        ("scale", c_float),
    )


class PackedAdapter:
    """See the module's sentence.

    Args:
        shape: of the model.
        additions: the adapter, which fits the model.
        dtype: the kernel's number format.
    """

    def __init__(self, shape: Shape, additions: Additions, dtype: torch.dtype) -> None:
        self._alive: list[Tensor] = []
        """What the kernel points to."""
        queries, keys = shape.heads * shape.head_size, shape.key_heads * shape.head_size
        first = {"key": queries, "value": queries + keys}
        packed = [
            self._packed(layer.get(name), first.get(name, 0), dtype)
            for layer in additions
            for name in _TARGETS
        ]
        self.structure = (Addition * len(packed))(*packed)
        """(layers, targets); of use while this object lives."""

    def _packed(self, low: LowRank | None, first: int, dtype: torch.dtype) -> Addition:
        if low is None:
            return Addition()
        rows, rank = low.up.shape
        down = pad(low.down.to(dtype), (0, -low.down.shape[1] % LANES))
        up = pad(low.up.to(dtype).T, (0, LANES + -rows % LANES)).contiguous()
        self._alive += [down, up]
        return Addition(
            down.data_ptr(), up.data_ptr(), rank, down.shape[1], up.shape[1], first, rows, low.scale
        )
