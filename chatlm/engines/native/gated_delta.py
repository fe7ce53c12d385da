"""The gated delta net: linear attention whose memory decays and is corrected by the delta rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from chatlm.engines.native.linear_memory import merge_heads, read_tokens, split_heads
from chatlm.engines.native.matrix_shape import MatrixShape
from chatlm.engines.native.norms import rms_norm
from chatlm.engines.native.products import multiply_all
from chatlm.engines.native.recurrent_state import LayerState, StateShape
from chatlm.engines.native.short_conv import causal_conv, conv_sizes
from chatlm.engines.native.weights import LayerWeights, MatMul

_L2_EPSILON = 1e-6
"""Added to the squared length of queries and keys."""


@dataclass(frozen=True)
class GatedDeltaConfig:
    """A gated delta net (Qwen3.5)."""

    num_key_heads: int
    num_value_heads: int
    """A multiple of the key heads; consecutive ones share queries and keys."""
    key_head_dim: int
    value_head_dim: int
    kernel_size: int
    """Tokens that the convolution of queries, keys and values sees."""

    @property
    def key_size(self) -> int:
        """Numbers of a token's keys, and of its queries."""
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
        )

    def matrix_shapes(self, hidden_size: int) -> Mapping[str, MatrixShape]:
        """Return its matrices by name."""
        return {
            "in_proj_qkv": MatrixShape(self.conv_channels, hidden_size),
            "in_proj_a": MatrixShape(self.num_value_heads, hidden_size),
            "in_proj_b": MatrixShape(self.num_value_heads, hidden_size),
            "in_proj_z": MatrixShape(self.value_size, hidden_size),
            "out_proj": MatrixShape(hidden_size, self.value_size),
        }

    def vector_sizes(self) -> Mapping[str, int]:
        """Return the sizes of its vectors by name."""
        return {
            **conv_sizes(self.conv_channels, self.kernel_size, bias=False),
            "A_log": self.num_value_heads,
            "dt_bias": self.num_value_heads,
            "norm_weight": self.value_head_dim,
        }


def gated_delta_net(
    config: GatedDeltaConfig,
    weights: LayerWeights[MatMul],
    x: Tensor,
    state: LayerState,
    eps: float,
) -> Tensor:
    """Return the layer's output for a block: (tokens, hidden_size), as `x`.

    Args:
        config: of the layer.
        weights: of the layer.
        x: its input.
        state: of the tokens before; changed in place.
        eps: of the norm.
    """
    matrices, vectors = weights.matrices, weights.vectors
    names = ("in_proj_qkv", "in_proj_a", "in_proj_b", "in_proj_z")
    qkv, a, b, z = multiply_all([matrices[name] for name in names], x)
    qkv = causal_conv(vectors, qkv, state.window, activate=True)
    queries, keys, values = qkv.split((config.key_size, config.key_size, config.value_size), dim=-1)
    shared = config.num_value_heads // config.num_key_heads
    queries, keys = (
        _normalize(split_heads(each, config.key_head_dim)).repeat_interleave(shared, dim=0)
        for each in (queries, keys)
    )
    rates = softplus(a.float() + vectors["dt_bias"].float())
    out = read_tokens(
        queries * config.key_head_dim**-0.5,
        keys,
        split_heads(values, config.value_head_dim),
        (-vectors["A_log"].float().exp() * rates).T,
        state.memory,
        b.float().sigmoid().T,
    )
    out = rms_norm(out, vectors["norm_weight"].float(), eps, torch.float32)
    out = merge_heads(out) * silu(z.float())
    return matrices["out_proj"](out.to(x.dtype))


def _normalize(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + _L2_EPSILON)
