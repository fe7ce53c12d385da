"""Elo ratings (2.6.3), match by match; pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chatlm import UsageError
from chatlm_arena.votes import Numbers, Votes

SMALLEST_K, LARGEST_K = 4.0, 32.0


@dataclass(frozen=True)
class EloRules:
    """How ratings begin and move.

    Raises:
        UsageError: a value is out of its range.
    """

    k: float = 32.0
    """The most that one match changes a rating, 4 to 32."""
    start: float = 1500.0
    scale: float = 400.0
    """Points between two of whom one is expected to win ten times as often."""

    def __post_init__(self) -> None:
        if not SMALLEST_K <= self.k <= LARGEST_K:
            raise UsageError(
                f"k must be from {SMALLEST_K:g} to {LARGEST_K:g}, not {self.k:g}.",
                hint="A small k makes steady ratings, a large one quick ones.",
            )
        if not self.scale > 0:
            raise UsageError(f"The scale must be above 0, not {self.scale:g}.")


def expected(rating: float, other: float, scale: float = 400.0) -> float:
    """What a contestant is expected to get from a match, 0 to 1."""
    return float(1.0 / (1.0 + 10.0 ** ((other - rating) / scale)))


def history(votes: Votes, rules: EloRules | None = None) -> tuple[Numbers, Numbers]:
    """Both ratings after each match.

    Returns:
        the left side's and the right side's, each of shape (votes,).
    """
    rules = rules or EloRules()
    rating = [rules.start] * len(votes.names)
    lefts, rights = [], []
    rows = zip(votes.left.tolist(), votes.right.tolist(), votes.score.tolist(), strict=True)
    for left, right, score in rows:
        change = rules.k * (score - expected(rating[left], rating[right], rules.scale))
        if left != right:
            rating[left] += change
            rating[right] -= change
        lefts.append(rating[left])
        rights.append(rating[right])
    return np.array(lefts, dtype=np.float64), np.array(rights, dtype=np.float64)


def elo(votes: Votes, rules: EloRules | None = None) -> Numbers:
    """The ratings after all matches, shape (contestants,); their mean stays `rules.start`."""
    rules = rules or EloRules()
    rating = np.full(len(votes.names), rules.start, dtype=np.float64)
    lefts, rights = history(votes, rules)
    at = np.empty(2 * len(votes), dtype=np.int64)
    at[0::2], at[1::2] = votes.left, votes.right
    after = np.empty(2 * len(votes))
    after[0::2], after[1::2] = lefts, rights
    rating[at] = after  # of several values for one index the last one stays
    return rating
