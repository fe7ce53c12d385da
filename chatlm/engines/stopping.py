"""Stopping on token sequences (5.3.3), in the form transformers' `generate` takes too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from chatlm.stopping import completed, longest_partial


class EndTokenStoppingCriteria:
    """Stops when the newest tokens are one of the given sequences.

    Args:
        sequences: token ids; each sequence has at least one.
    """

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        self._sequences = [tuple(sequence) for sequence in sequences]
        if not all(self._sequences):
            raise ValueError("an end sequence needs at least one token")
        self._longest = max((len(sequence) for sequence in self._sequences), default=0)

    def __call__(self, input_ids: Tensor, scores: Any = None, **_: Any) -> Tensor:
        """Whether each row ends: (rows, tokens) ids to (rows,) bool."""
        ends = [self.ending(row) is not None for row in input_ids[:, -self._longest :].tolist()]
        return torch.tensor(ends, device=input_ids.device)

    def ending(self, ids: Sequence[int]) -> tuple[int, ...] | None:
        """The sequence that `ids` end with."""
        return completed(tuple(ids[-self._longest :]) if self._longest else (), self._sequences)

    def pending(self, ids: Sequence[int]) -> int:
        """How many of the newest ids may be the beginning of an end sequence."""
        return longest_partial(tuple(ids[-self._longest :]), self._sequences)
