"""The gated delta net: linear attention whose memory decays and is corrected by the delta rule."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from chatlm.engines.native.linear_memory import merge_heads, read_tokens, split_heads
from chatlm.engines.native.recurrent_state import StateShape

_L2_EPSILON = 1e-6
"""Added to the squared length of queries and keys."""


@dataclass(frozen=True)
class GatedDeltaConfig:
    """A gated delta net (Qwen3.5)."""

    num_key_heads: int
    num_value_heads: int
    """A multiple of the key heads; consecutive ones share a key."""
    key_head_dim: int
    value_head_dim: int
    kernel_size: int
    """Tokens that the convolution of queries, keys and values sees."""

    @property
    def key_size(self) -> int:
        """Numbers of a token's keys."""
        return self.num_key_heads * self.key_head_dim

    @property
    def value_size(self) -> int:
        """Numbers of a token's values."""
        return self.num_value_heads * self.value_head_dim

    @property
    def conv_channels(self) -> int:
        """Numbers of a token's queries, keys and values."""
        return 2 * self.key_size + self.value_size

    @property
    def state_shape(self) -> StateShape:
        """What the layer remembers."""
        return StateShape(
            (self.kernel_size - 1, self.conv_channels),
            (self.num_value_heads, self.key_head_dim, self.value_head_dim),
            self.num_value_heads * (self.key_head_dim + self.value_head_dim + 2),
        )


def update_memory(
    config: GatedDeltaConfig,
    memory: Tensor,
    qkv: Tensor,
    decay_input: Tensor,
    beta_input: Tensor,
    decay_rate: Tensor,
    decay_bias: Tensor,
) -> Tensor:
    """Read tokens into a layer's memory, in float32.

    Args:
        config: of the layer.
        memory: (value heads, key_head_dim, value_head_dim); changed in place.
        qkv: queries, keys and values after the convolution: (tokens, conv_channels).
        decay_input: (tokens, value heads)
        beta_input: (tokens, value heads)
        decay_rate: logarithm of each head's rate: (value heads,).
        decay_bias: (value heads,)

    Returns:
        (tokens, value_size)
    """
    shared = config.num_value_heads // config.num_key_heads
    sizes = (config.key_size, config.key_size, config.value_size)
    queries, keys, values = qkv.float().split(sizes, dim=-1)
    queries = _normalize(split_heads(queries, config.key_head_dim)) * config.key_head_dim**-0.5
    keys = _normalize(split_heads(keys, config.key_head_dim))
    queries, keys = (x.repeat_interleave(shared, dim=0) for x in (queries, keys))
    values = split_heads(values, config.value_head_dim)
    decays = -decay_rate.float().exp() * softplus(decay_input.float() + decay_bias.float())
    betas = beta_input.float().sigmoid()
    return merge_heads(read_tokens(queries, keys, values, decays.T, memory, betas.T))


def _normalize(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + _L2_EPSILON)
