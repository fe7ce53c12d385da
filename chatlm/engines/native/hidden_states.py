"""What left the last layer for the newest tokens of a sequence."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_KEPT = 64
"""Tokens whose hidden states are kept: a layer that drafts reads so many at once at most."""


class HiddenStates:
    """The hidden states of the newest tokens of one sequence, before the model's norm."""

    def __init__(self) -> None:
        self._rows = torch.empty(0, 0)
        self._start = 0

    @property
    def start(self) -> int:
        """Position of the first token whose hidden state is known."""
        return self._start

    @property
    def end(self) -> int:
        """Position after the last one."""
        return self._start + len(self._rows)

    def add(self, position: int, rows: Tensor) -> None:
        """Take the hidden states of new tokens: (tokens, hidden_size).

        Args:
            position: of the first of them; what was known after it is dropped.
            rows: are copied.
        """
        kept = self.since(self.start)[: max(0, position - self.start)]
        if len(kept) and position == self.start + len(kept):
            self._rows = torch.cat([kept, rows])[-MAX_KEPT:]
        else:
            self._rows = rows[-MAX_KEPT:].clone()
        self._start = position + len(rows) - len(self._rows)

    def truncate(self, length: int) -> None:
        """Drop those from a position on."""
        self._rows = self._rows[: max(0, length - self._start)]

    def since(self, position: int) -> Tensor:
        """Return those from a position on, which is not before `start`."""
        return self._rows[position - self._start :]
