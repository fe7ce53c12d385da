"""Tells which texts say the same, so that one of them is enough; knows no index."""

from __future__ import annotations

SAME = 0.9
"""Two texts say the same when they share this part of all their runs of words."""

_RUN = 3


class Wording:
    """The words of a text, to be compared with others."""

    def __init__(self, text: str) -> None:
        words = text.casefold().split()
        self._numbers = {word for word in words if any(map(str.isdigit, word))}
        self._runs = {
            tuple(words[begin : begin + _RUN]) for begin in range(max(len(words) - _RUN + 1, 1))
        }

    def says_the_same(self, other: Wording) -> bool:
        """Whether both have nearly the same words, and the same numbers."""
        if self._numbers != other._numbers:
            return False
        return len(self._runs & other._runs) >= SAME * len(self._runs | other._runs)
