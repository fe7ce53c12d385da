"""What recurrent layers remember of a sequence, and checkpoints to which it can go back.

The keys and values of attention can be dropped from the end. A recurrent state cannot: it mixes all
tokens before. So copies of it are kept at the ends of a prompt's blocks, and a sequence is cut off
at one of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from chatlm.engines.kv_layout import MAX_STATES, densest

_ALIGNMENT = 16
"""Each tensor begins at a multiple of so many numbers."""


@dataclass(frozen=True)
class StateShape:
    """The state of one recurrent layer, in float32."""

    window: tuple[int, int]
    """The newest inputs of its convolution: (kernel_size - 1, channels)."""
    memory: tuple[int, int, int] | None = None
    """(heads, key_dim, value_dim); None for a convolution alone."""

    @property
    def window_size(self) -> int:
        """Numbers of the window, with what aligns the next tensor."""
        return _aligned(prod(self.window))

    @property
    def size(self) -> int:
        """Numbers of the state, with what aligns the next one."""
        return self.window_size + _aligned(prod(self.memory or (0,)))

    @property
    def log_window_size(self) -> int:
        """Numbers of the convolution's part of `log_size`."""
        return _aligned(self.window[1])

    @property
    def log_size(self) -> int:
        """Numbers that are logged for a token which may be dropped again."""
        heads, key_dim, value_dim = self.memory or (0, 0, 0)
        # a head's key, value, decay and beta
        return self.log_window_size + _aligned(heads * (key_dim + value_dim + 2))


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class LayerState:
    """The state of one layer: parts of `RecurrentState.buffer`, which are changed in place."""

    window: Tensor
    memory: Tensor
    """Empty for a convolution alone."""


class RecurrentState:
    """The states of all recurrent layers of one sequence.

    Args:
        shapes: of the recurrent layers, in their order.
        device: of the states.
    """

    def __init__(self, shapes: Sequence[StateShape], device: str = "cpu") -> None:
        self.shapes = tuple(shapes)
        self.buffer = torch.zeros(sum(shape.size for shape in shapes), device=device)
        """All states, one after the other: at the same address as long as the sequence lives."""
        self.layers = tuple(self._views())
        self.length = 0
        """Tokens that the states have read."""
        self.log: Tensor | None = None
        """Inputs of tokens after `length`, which a decoder has tried out and which may be dropped:
        (tokens, `log_size` of all layers)."""
        self._checkpoints: dict[int, Tensor] = {}
        """Copies of `buffer` by the length of the text."""

    def _views(self) -> list[LayerState]:
        layers, start = [], 0
        for shape in self.shapes:
            memory = start + shape.window_size
            layers.append(
                LayerState(
                    self.buffer[start : start + prod(shape.window)].view(shape.window),
                    self.buffer[memory : memory + prod(shape.memory or (0,))].view(
                        shape.memory or (0,)
                    ),
                )
            )
            start += shape.size
        return layers

    def open_log(self, tokens: int) -> None:
        """Have a log with room for so many tokens, always the same number."""
        if self.log is None:
            size = sum(shape.log_size for shape in self.shapes)
            self.log = torch.zeros(tokens, size, device=self.buffer.device)

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Lengths to which the states can go back, in rising order, besides 0."""
        return tuple(self._checkpoints)

    def save_checkpoint(self) -> None:
        """Keep the current states; older checkpoints may be dropped for it."""
        if not self.shapes:
            return
        self._checkpoints[self.length] = self.buffer.clone()
        if len(self._checkpoints) > MAX_STATES:
            lengths = list(self._checkpoints)
            del self._checkpoints[lengths[densest(lengths)]]

    def read_checkpoint(self, length: int) -> Tensor | None:
        """Return the states at a checkpoint; None if there is none for this length."""
        if not self.shapes:
            return self.buffer.cpu()
        found = self._checkpoints.get(length)
        return None if found is None else found.cpu()

    def restore(self, length: int, states: Tensor) -> None:
        """Take the states that a text of this length had; it becomes a checkpoint."""
        self.buffer.copy_(states)
        self.length = length
        self.save_checkpoint()

    def truncate(self, length: int) -> int:
        """Go back to a text of this length, or to the last checkpoint before; return its length."""
        if not self.shapes or self.length <= length:
            return length
        lengths = list(self._checkpoints)
        count = bisect_right(lengths, length)
        for later in lengths[count:]:
            del self._checkpoints[later]
        self.length = lengths[count - 1] if count else 0
        if count:
            self.buffer.copy_(self._checkpoints[self.length])
        else:
            self.buffer.zero_()
        return self.length
