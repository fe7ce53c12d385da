"""Causal convolutions over a few tokens, each channel by itself, and the layers made of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from chatlm.engines.native.matrix_shape import MatrixShape
from chatlm.engines.native.recurrent_state import LayerState, StateShape
from chatlm.engines.native.weights import LayerWeights, MatMul


@dataclass(frozen=True)
class ShortConvConfig:
    """A gated short convolution (LFM2): `out_proj(c * conv(b * x))`; `in_proj` gives b, c and x."""

    channels: int
    kernel_size: int
    """Tokens that it sees."""
    bias: bool = False
    """Of the projections and of the convolution."""

    @property
    def state_shape(self) -> StateShape:
        """What the layer remembers."""
        return StateShape((self.kernel_size - 1, self.channels))

    def matrix_shapes(self, hidden_size: int) -> Mapping[str, MatrixShape]:
        """Return its matrices by name."""
        return {
            "in_proj": MatrixShape(3 * self.channels, hidden_size, self.bias),
            "out_proj": MatrixShape(hidden_size, self.channels, self.bias),
        }

    def vector_sizes(self) -> Mapping[str, int]:
        """Return the sizes of its vectors by name."""
        return conv_sizes(self.channels, self.kernel_size, bias=self.bias)


def conv_sizes(channels: int, kernel_size: int, *, bias: bool) -> Mapping[str, int]:
    """Return the sizes of a convolution's vectors by name."""
    return {"conv": channels * kernel_size} | ({"conv_bias": channels} if bias else {})


def causal_conv(
    vectors: Mapping[str, Tensor], x: Tensor, window: Tensor, *, activate: bool = False
) -> Tensor:
    """Convolve each channel with its newest inputs, in float32.

    Args:
        vectors: `conv`, the channels' weights one after the other, oldest token first, and perhaps
            `conv_bias`.
        x: (tokens, channels)
        window: inputs before: (kernel_size - 1, channels); replaced by the newest ones.
        activate: whether to apply SiLU.

    Returns:
        (tokens, channels), float32.
    """
    tokens, channels = x.shape
    inputs = torch.cat((window, x.float()))
    weights = vectors["conv"].float().view(channels, -1).T
    out = inputs[:tokens] * weights[0]
    for offset in range(1, len(weights)):
        out = out + inputs[offset : offset + tokens] * weights[offset]
    window.copy_(inputs[tokens:])
    if "conv_bias" in vectors:
        out = out + vectors["conv_bias"].float()
    return silu(out) if activate else out


def short_conv(weights: LayerWeights[MatMul], x: Tensor, state: LayerState) -> Tensor:
    """Return the layer's output for a block: (tokens, hidden_size), as `x`.

    Args:
        weights: of the layer.
        x: its input.
        state: of the tokens before; changed in place.
    """
    b, c, inner = weights.matrices["in_proj"](x).float().chunk(3, dim=-1)
    out = c * causal_conv(weights.vectors, b * inner, state.window)
    return weights.matrices["out_proj"](out.to(x.dtype))
