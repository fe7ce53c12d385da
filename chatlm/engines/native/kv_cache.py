"""The KV cache of one token sequence, shared by torch and the C kernel without a copy."""

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
"""A head's row is padded with zeros to a multiple of it."""

CAPACITY_STEP = 512
"""The capacity grows by at least this many tokens."""


def allocate_huge_pages(byte_count: int) -> Tensor:
    """Allocate zeroed bytes in huge pages where available, which saves TLB misses.

    Raises:
        MemoryError: there is not enough memory.
    """
    try:
        area = mmap.mmap(-1, max(byte_count, 1))
    except (OSError, OverflowError) as error:
        raise MemoryError from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        area.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(area, dtype=torch.uint8, count=byte_count)


class KVCache:
    """Keys and values of all layers, with a capacity that grows.

    Args:
        config: of the model.
        dtype: of keys and values.
        device: of keys and values.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: str = "cpu") -> None:
        self._head_dim = config.head_dim
        row = -(-config.head_dim // LANES) * LANES
        size = (2, config.num_hidden_layers, config.num_key_value_heads, 0, row)
        self._kv = torch.zeros(size, dtype=dtype, device=device)
        self.length = 0
        """Tokens in the cache."""

    @property
    def kv(self) -> Tensor:
        """Keys, then values: (2, layers, KV heads, capacity, padded head_dim)."""
        return self._kv

    @property
    def capacity(self) -> int:
        """Tokens that fit before it has to grow."""
        return self._kv.shape[3]

    def reserve(self, tokens: int) -> None:
        """Grow to a capacity of at least `tokens`."""
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
        """Append a block to one layer; the caller advances `length` after the last layer.

        Args:
            layer: index from 0.
            keys: (KV heads, tokens, head_dim), as `values`; the capacity must suffice.
            values: of the same tokens.

        Returns:
            All keys and values of the layer with the block, in the same layout.
        """
        end = self.length + keys.shape[1]
        kv = self._kv[:, layer, :, :end, : self._head_dim]
        kv[0, :, self.length :] = keys
        kv[1, :, self.length :] = values
        return kv[0], kv[1]


@dataclass(frozen=True)
class SequenceInput:
    """New tokens of one sequence, and its KV cache."""

    kv_cache: KVCache
    tokens: Sequence[int]
    adapter: Any = None
    """As the decoder's `pack_adapter` returned it; None for no adapter."""
