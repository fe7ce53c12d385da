"""Mamba-2: a linear memory that decays, with keys and queries that heads of a group share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

from chatlm.engines.native.linear_memory import merge_heads, read_tokens, split_heads
from chatlm.engines.native.recurrent_state import StateShape


@dataclass(frozen=True)
class MambaConfig:
    """A Mamba-2 layer."""

    num_heads: int
    head_dim: int
    num_groups: int
    """Their heads share B and C."""
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
    def conv_channels(self) -> int:
        """Numbers of a token's x, B and C."""
        return self.inner_size + 2 * self.num_groups * self.state_size

    @property
    def state_shape(self) -> StateShape:
        """What the layer remembers."""
        return StateShape(
            (self.kernel_size - 1, self.conv_channels),
            (self.num_heads, self.state_size, self.head_dim),
            self.num_heads * (self.state_size + self.head_dim + 2),
        )


def update_memory(
    config: MambaConfig,
    memory: Tensor,
    xbc: Tensor,
    step_input: Tensor,
    decay_rate: Tensor,
    step_bias: Tensor,
    skip: Tensor,
) -> Tensor:
    """Read tokens into a layer's memory, in float32.

    Args:
        config: of the layer.
        memory: (heads, state_size, head_dim); changed in place.
        xbc: x, B and C after the convolution: (tokens, conv_channels).
        step_input: (tokens, heads)
        decay_rate: logarithm of each head's rate: (heads,).
        step_bias: (heads,)
        skip: the factor D of each head: (heads,).

    Returns:
        (tokens, inner_size)
    """
    shared = config.num_heads // config.num_groups
    group_size = config.num_groups * config.state_size
    x, b, c = xbc.float().split((config.inner_size, group_size, group_size), dim=-1)
    x = split_heads(x, config.head_dim)
    b, c = (
        split_heads(each, config.state_size).repeat_interleave(shared, dim=0) for each in (b, c)
    )
    steps = softplus(step_input.float() + step_bias.float()).T
    decays = -decay_rate.float().exp()[:, None] * steps
    out = read_tokens(c, b, x * steps[..., None], decays, memory)
    return merge_heads(out + x * skip.float()[:, None, None])
