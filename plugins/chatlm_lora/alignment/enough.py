"""How many pairs are enough: for a result at all, and for one that is likely to be settled."""

from __future__ import annotations

import math
from dataclasses import dataclass

MIN_HELD_OUT = 5
"""With fewer held-out pairs, not even all of them right would differ from chance."""

EXPECTED_ACCURACY = 0.7
"""Share of held-out pairs that training is expected to get right."""

_Z_95, _Z_80 = 1.959964, 0.841621
"""Quantiles of the normal distribution for an interval of 95 % and a power of 80 %."""


@dataclass(frozen=True)
class PairCount:
    """How many pairs there are, and how many are needed."""

    pairs: int
    held_out: float
    """Share of the pairs that is held out."""

    @property
    def missing(self) -> int:
        """Pairs without which training is refused."""
        return max(_pairs_for(MIN_HELD_OUT, self.held_out) - self.pairs, 0)

    @property
    def missing_for_verdict(self) -> int:
        """Pairs without which the held-out pairs will probably settle nothing."""
        return max(_pairs_for(held_out_needed(EXPECTED_ACCURACY), self.held_out) - self.pairs, 0)


def held_out_needed(accuracy: float) -> int:
    """Return how many held-out pairs tell an accuracy from chance with a power of 80 %.

    Args:
        accuracy: above 0.5, at most 1.
    """
    deviation = _Z_95 * 0.5 + _Z_80 * math.sqrt(accuracy * (1 - accuracy))
    return math.ceil((deviation / (accuracy - 0.5)) ** 2)


def _pairs_for(held_out: int, share: float) -> int:
    return math.ceil(held_out / share - 1e-9)


def share_interval(right: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson).

    Args:
        right: number of successes; ties may count as half.
        count: number of trials, at least 1.
    """
    share, z2 = right / count, _Z_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z_95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)
