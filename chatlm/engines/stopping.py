"""Stop strings, stop token sequences; no torch at import."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

S = TypeVar("S", str, tuple[int, ...])


def longest_partial_match(sequence: S, stops: Sequence[S]) -> int:
    """Length of the longest end of `sequence` that is the beginning, but not all, of a stop."""
    most = max((len(stop) for stop in stops), default=1) - 1
    for length in range(min(most, len(sequence)), 0, -1):
        tail = sequence[-length:]
        if any(len(stop) > length and stop[:length] == tail for stop in stops):
            return length
    return 0


def matching_stop(sequence: S, stops: Sequence[S]) -> S | None:
    """The stop that `sequence` ends with; the longest if there are several."""
    found = [stop for stop in stops if sequence[len(sequence) - len(stop) :] == stop]
    return max(found, key=len, default=None)


class StopStringFilter:
    """Looks for stop strings in a growing text.

    The whole text is cut where the first stop to be completed begins; of several completed by
    the same character, the longest. How the text was split into pieces makes no difference.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self.withheld = ""
        """Text that is withheld since it may become a stop."""
        self.matched_stop: str | None = None
        """The stop that was completed."""

    def feed(self, piece: str) -> str:
        """Add a piece; returns the text that is now certain. Nothing more comes after a stop."""
        if self.matched_stop is not None:
            return ""
        text = self.withheld + piece
        for end in range(len(self.withheld) + 1, len(text) + 1):
            self.matched_stop = matching_stop(text[:end], self._stops)
            if self.matched_stop is not None:
                self.withheld = ""
                return text[: end - len(self.matched_stop)]
        keep = len(text) - longest_partial_match(text, self._stops)
        self.withheld = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """The withheld text, when nothing more will come."""
        held, self.withheld = self.withheld, ""
        return held


class EosStoppingCriteria:
    """Stops when the newest tokens are one of the given sequences.

    Args:
        sequences: token ids; each sequence has at least one.
    """

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        self._sequences = [tuple(sequence) for sequence in sequences]
        if not all(self._sequences):
            raise ValueError("an end sequence needs at least one token")
        self._max_length = max((len(sequence) for sequence in self._sequences), default=0)

    def __call__(self, input_ids: Tensor, scores: Any = None, **_: Any) -> Tensor:
        """Whether each row ends: (rows, tokens) ids to (rows,) bool."""
        ends = [self.match(row) is not None for row in input_ids[:, -self._max_length :].tolist()]
        return torch.tensor(ends, device=input_ids.device)

    def match(self, ids: Sequence[int]) -> tuple[int, ...] | None:
        """The sequence that `ids` end with."""
        return matching_stop(
            tuple(ids[-self._max_length :]) if self._max_length else (), self._sequences
        )

    def partial_match_length(self, ids: Sequence[int]) -> int:
        """How many of the newest ids may be the beginning of an end sequence."""
        return longest_partial_match(tuple(ids[-self._max_length :]), self._sequences)
