"""When a text or a token sequence ends (5.3.3): no stop is ever leaked and no text ever lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

S = TypeVar("S", str, tuple[int, ...])


def longest_partial(sequence: S, stops: Sequence[S]) -> int:
    """Length of the longest end of `sequence` that is the beginning, but not all, of a stop."""
    most = max((len(stop) for stop in stops), default=1) - 1
    for length in range(min(most, len(sequence)), 0, -1):
        tail = sequence[-length:]
        if any(len(stop) > length and stop[:length] == tail for stop in stops):
            return length
    return 0


def completed(sequence: S, stops: Sequence[S]) -> S | None:
    """The stop that `sequence` ends with; the longest if there are several."""
    found = [stop for stop in stops if sequence[len(sequence) - len(stop) :] == stop]
    return max(found, key=len, default=None)


class StopText:
    """Looks for stop strings in a growing text.

    The whole text is cut where the first stop to be completed begins; of several completed by
    the same character, the longest. How the text was split into pieces makes no difference.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self.held = ""
        """Text that is withheld since it may become a stop."""
        self.found: str | None = None
        """The stop that was completed."""

    def feed(self, piece: str) -> str:
        """Add a piece; returns the text that is now certain. Nothing more comes after a stop."""
        if self.found is not None:
            return ""
        text = self.held + piece
        for end in range(len(self.held) + 1, len(text) + 1):
            self.found = completed(text[:end], self._stops)
            if self.found is not None:
                self.held = ""
                return text[: end - len(self.found)]
        keep = len(text) - longest_partial(text, self._stops)
        self.held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """The withheld text, when nothing more will come."""
        held, self.held = self.held, ""
        return held
