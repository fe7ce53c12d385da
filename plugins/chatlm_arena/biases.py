"""What besides the answer itself may have swayed the voter: the side, and the length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chatlm_arena.pairing import SURE
from chatlm_arena.votes import Numbers


@dataclass(frozen=True)
class Bias:
    """How often one kind of reply won, of the votes that were no ties."""

    won: int
    decided: int

    @property
    def rate(self) -> float | None:
        """0.5 is fair; None without votes."""
        return self.won / self.decided if self.decided else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of `rate`."""
        if not self.decided:
            return None
        rate, n, z = self.won / self.decided, self.decided, SURE
        middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * ((rate * (1 - rate) + z * z / (4 * n)) / n) ** 0.5
        return middle - half, middle + half

    @property
    def is_clear(self) -> bool:
        """Whether chance alone hardly explains it."""
        ends = self.interval
        return ends is not None and not ends[0] <= 0.5 <= ends[1]


def of_sides(score: Numbers) -> Bias:
    """How often the left side won.

    Args:
        score: shape (votes,), what the left side got: 1, 0.5 or 0.
    """
    return Bias(int((score == 1).sum()), int((score != 0.5).sum()))


def of_length(score: Numbers, left: Numbers, right: Numbers) -> Bias:
    """How often the longer reply won; replies of one length tell nothing.

    Args:
        score: shape (votes,), what the left side got: 1, 0.5 or 0.
        left: lengths of the left replies, in any unit; nan where there is none.
        right: those of the right replies.
    """
    decided = (score != 0.5) & np.isfinite(left) & np.isfinite(right) & (left != right)
    longer = (score == 1) == (left > right)
    return Bias(int((decided & longer).sum()), int(decided.sum()))
