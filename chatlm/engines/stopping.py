"""End a reply at stop strings and at end-of-sequence tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

S = TypeVar("S", str, tuple[int, ...])


def longest_partial_match(sequence: S, stops: Sequence[S]) -> int:
    """Return the length of the longest suffix of `sequence` that is a proper prefix of a stop."""
    most = min(max((len(stop) for stop in stops), default=1) - 1, len(sequence))
    newest = sequence[len(sequence) - most :]
    if not any(stop[0] in newest for stop in stops if stop):  # as most tokens, each time
        return 0
    for length in range(most, 0, -1):
        tail = sequence[-length:]
        if any(len(stop) > length and stop[:length] == tail for stop in stops):
            return length
    return 0


def matching_stop(sequence: S, stops: Sequence[S]) -> S | None:
    """Return the longest stop that `sequence` ends with, if any."""
    matches = [stop for stop in stops if sequence[len(sequence) - len(stop) :] == stop]
    return max(matches, key=len, default=None)


class StopStringFilter:
    """A filter that ends a streamed text at the first stop string.

    The text is cut where the stop that is completed first starts; of several completed by the
    same character, the longest wins. How the stream is split makes no difference.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self.withheld = ""
        """Text held back because it may turn into a stop string."""
        self.matched_stop: str | None = None
        """The stop string that ended the text."""

    def feed(self, text: str) -> str:
        """Add text; return what is certain not to be part of a stop. Empty after a stop."""
        if self.matched_stop is not None:
            return ""
        text = self.withheld + text
        is_possible = any(stop in text for stop in self._stops)
        for end in range(len(self.withheld) + 1, len(text) + 1) if is_possible else ():
            self.matched_stop = matching_stop(text[:end], self._stops)
            if self.matched_stop is not None:
                self.withheld = ""
                return text[: end - len(self.matched_stop)]
        keep = len(text) - longest_partial_match(text, self._stops)
        self.withheld = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """Return the withheld text at the end of the stream."""
        held, self.withheld = self.withheld, ""
        return held


class EosStoppingCriteria:
    """A stopping criterion met when the newest tokens are one of the given sequences.

    Args:
        sequences: token ids; each sequence has at least one.
    """

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        self._sequences = [tuple(sequence) for sequence in sequences]
        if not all(self._sequences):
            raise ValueError("an end sequence needs at least one token")
        self._max_length = max((len(sequence) for sequence in self._sequences), default=0)

    def __call__(self, input_ids: Tensor, scores: Any = None, **_: Any) -> Tensor:
        """Tell which rows end: (rows, tokens) ids to (rows,) bool."""
        import torch  # here, so that engines without torch can filter stop strings

        ends = [self.match(row) is not None for row in input_ids[:, -self._max_length :].tolist()]
        return torch.tensor(ends, device=input_ids.device)

    def match(self, ids: Sequence[int]) -> tuple[int, ...] | None:
        """Return the end sequence that `ids` end with, if any."""
        return matching_stop(
            tuple(ids[-self._max_length :]) if self._max_length else (), self._sequences
        )

    def partial_match_length(self, ids: Sequence[int]) -> int:
        """Count the newest ids that may be the start of an end sequence."""
        return longest_partial_match(tuple(ids[-self._max_length :]), self._sequences)
