"""Causal convolutions over a few tokens, each channel by itself, and the layers made of one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from chatlm.engines.native.recurrent_state import StateShape


@dataclass(frozen=True)
class ShortConvConfig:
    """A gated short convolution (LFM2)."""

    channels: int
    kernel_size: int
    bias: bool = False
    """Of the projections and of the convolution."""

    @property
    def state_shape(self) -> StateShape:
        """What the layer remembers."""
        return StateShape((self.kernel_size - 1, self.channels))


def causal_conv(
    x: Tensor, window: Tensor, weight: Tensor, bias: Tensor | None, *, activate: bool = False
) -> Tensor:
    """Convolve each channel with its newest inputs, in float32.

    Args:
        x: (tokens, channels)
        window: inputs before: (kernel_size - 1, channels); replaced by the newest ones.
        weight: (channels, kernel_size)
        bias: (channels,), or None.
        activate: whether to apply SiLU.

    Returns:
        (tokens, channels), float32.
    """
    inputs = torch.cat((window, x.float()))
    taps = weight.float().T
    out = inputs[: len(x)] * taps[0]
    for offset in range(1, len(taps)):
        out = out + inputs[offset : offset + len(x)] * taps[offset]
    window.copy_(inputs[len(x) :])
    if bias is not None:
        out = out + bias.float()
    return silu(out) if activate else out
