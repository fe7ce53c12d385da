"""Mamba-2: a linear memory that decays, with keys and queries that heads of a group share."""

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


@dataclass(frozen=True)
class MambaConfig:
    """A Mamba-2 layer."""

    num_heads: int
    head_dim: int
    num_groups: int
    """Their heads share B and C, which are keys and queries."""
    state_size: int
    kernel_size: int
    """Tokens that the convolution of x, B and C sees."""
    conv_bias: bool = True
    proj_bias: bool = False

    @property
    def inner_size(self) -> int:
        """Numbers of a token's x."""
        return self.num_heads * self.head_dim

    @property
    def key_size(self) -> int:
        """Numbers of a token's B, and of its C."""
        return self.num_groups * self.state_size

    @property
    def conv_channels(self) -> int:
        """Numbers of a token's x, B and C."""
        return self.inner_size + 2 * self.key_size

    @property
    def state_shape(self) -> StateShape:
        """What the layer remembers."""
        return StateShape(
            (self.kernel_size - 1, self.conv_channels),
            (self.num_heads, self.state_size, self.head_dim),
        )

    def matrix_shapes(self, hidden_size: int) -> Mapping[str, MatrixShape]:
        """Return its matrices by name; the files hold the first three as one."""
        return {
            "in_proj_z": MatrixShape(self.inner_size, hidden_size, self.proj_bias),
            "in_proj_xbc": MatrixShape(self.conv_channels, hidden_size, self.proj_bias),
            "in_proj_dt": MatrixShape(self.num_heads, hidden_size, self.proj_bias),
            "out_proj": MatrixShape(hidden_size, self.inner_size, self.proj_bias),
        }

    def vector_sizes(self) -> Mapping[str, int]:
        """Return the sizes of its vectors by name."""
        return {
            **conv_sizes(self.conv_channels, self.kernel_size, bias=self.conv_bias),
            **dict.fromkeys(("A_log", "dt_bias", "D"), self.num_heads),
            "norm_weight": self.inner_size,
        }


def mamba(
    config: MambaConfig, weights: LayerWeights[MatMul], x: Tensor, state: LayerState, eps: float
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
    names = ("in_proj_xbc", "in_proj_dt", "in_proj_z")
    xbc, dt, z = multiply_all([matrices[name] for name in names], x)
    xbc = causal_conv(vectors, xbc, state.window, activate=True)
    inner, b, c = xbc.split((config.inner_size, config.key_size, config.key_size), dim=-1)
    shared = config.num_heads // config.num_groups
    b, c = (
        split_heads(each, config.state_size).repeat_interleave(shared, dim=0) for each in (b, c)
    )
    inner = split_heads(inner, config.head_dim)
    steps = softplus(dt.float() + vectors["dt_bias"].float()).T
    out = read_tokens(
        c,
        b,
        inner * steps[..., None],
        -vectors["A_log"].float().exp()[:, None] * steps,
        state.memory,
    )
    out = merge_heads(out + inner * vectors["D"].float()[:, None, None])
    out = out * silu(z.float())
    groups = (config.num_groups, -1)  # normalized one by one
    weight = vectors["norm_weight"].float().view(groups)
    out = rms_norm(out.unflatten(-1, groups), weight, eps, torch.float32).flatten(-2)
    return matrices["out_proj"](out.to(x.dtype))
