"""The keys and values of one token sequence, where torch writes whole blocks and the kernel one
token at a time, without a copy between them."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chatlm.engines.native.model_config import ModelConfig

LANES = 16
"""A head's numbers are followed by zeros up to a multiple of it."""


CAPACITY_STEP = 512
"""The room grows by at least so many tokens."""


def allocate_huge_pages(byte_count: int) -> Tensor:
    """Zeroed bytes in large pages where the system has them: walking small ones costs time.

    Raises:
        MemoryError: there are not so many.
    """
    try:
        area = mmap.mmap(-1, max(byte_count, 1))
    except (OSError, OverflowError) as error:
        raise MemoryError from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        area.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(area, dtype=torch.uint8, count=byte_count)


class KVCache:
    """Room for keys and values that grows as tokens come.

    Args:
        config: of the model.
        dtype: number format of keys and values.
        device: where they are.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: str = "cpu") -> None:
        self._head_dim = config.head_dim
        row = -(-config.head_dim // LANES) * LANES
        size = (2, config.num_hidden_layers, config.num_key_value_heads, 0, row)
        self._kv = torch.zeros(size, dtype=dtype, device=device)
        self.length = 0
        """Tokens that are in it."""

    @property
    def kv(self) -> Tensor:
        """Keys, then values: (2, layers, key heads, room, row)."""
        return self._kv

    @property
    def capacity(self) -> int:
        """Tokens it holds before it has to grow."""
        return self._kv.shape[3]

    def reserve(self, tokens: int) -> None:
        """Make room for so many tokens in all."""
        if tokens <= self.capacity:
            return
        old = self._kv
        size = (
            *old.shape[:3],
            max(tokens, self.capacity * 3 // 2, self.capacity + CAPACITY_STEP),
            old.shape[4],
        )
        if old.device.type == "cpu":
            self._kv = (
                allocate_huge_pages(math.prod(size) * old.itemsize).view(old.dtype).view(size)
            )
        else:
            self._kv = old.new_zeros(size)
        self._kv[:, :, :, : self.length] = old[:, :, :, : self.length]

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a block behind the tokens that are there; `length` is the caller's to move.

        Args:
            layer: from 0.
            keys: (key heads, tokens, head size), as `values`; there must be room for it.

        Returns:
            All keys and all values of the layer, the block's included, in the same form.
        """
        end = self.length + keys.shape[1]
        whole = self._kv[:, layer, :, :end, : self._head_dim]
        whole[0, :, self.length :] = keys
        whole[1, :, self.length :] = values
        return whole[0], whole[1]


@dataclass(frozen=True)
class SequenceInput:
    """Tokens to be added to a memory."""

    kv_cache: KVCache
    tokens: Sequence[int]
    adapter: Any = None
    """That acts, as the decoder packed it; None for none."""
