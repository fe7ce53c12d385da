"""When to stop voting: tests that stay valid however often one looks at the result.

A bettor stakes a share λ on each decided vote between two contestants. If neither wins more often,
whatever the votes before, wealth is a nonnegative martingale, and by Ville's inequality it ever
exceeds 1/α with probability α at most (Waudby-Smith and Ramdas, 2023, "Estimating means of bounded
random variables by betting"). Averaged over all λ from 0 to 1, wealth has a closed form in wins and
losses. The pair may be chosen by the votes so far, as informative pairing does. confseq is not
used: its last release needs a C++ compiler and does not have this form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chatlm_arena.votes import FloatArray, Tally

ALPHA = 0.05
"""Chance of ever naming a wrong first contestant, at most."""


def log_wealth(wins: float, losses: float) -> float:
    """Return the log of the wealth of one who bet on the winner of `wins`; ties change nothing.

    It is ∫₀¹ (1 + λ)^wins (1 - λ)^losses dλ.
    """
    from scipy.special import betainc, betaln

    share = float(betainc(losses + 1, wins + 1, 0.5))  # of p above 1/2, by symmetry
    if share <= 0:
        return -math.inf
    return float((wins + losses + 1) * math.log(2) + betaln(wins + 1, losses + 1) + math.log(share))


def share_interval(wins: int, losses: int, alpha: float = ALPHA) -> tuple[float, float]:
    """Return a confidence interval of the share of decided votes won, valid at all times together.

    It has the shares that the mixture of all shares does not outbet (Robbins, 1970).
    """
    from scipy.optimize import brentq
    from scipy.special import betaln, xlog1py, xlogy

    if not wins + losses:
        return 0.0, 1.0
    mixture = float(betaln(wins + 1, losses + 1))

    def excess(share: float) -> float:
        return float(mixture - xlogy(wins, share) - xlog1py(losses, -share) - math.log(1 / alpha))

    best = wins / (wins + losses)
    low = brentq(excess, 1e-12, best) if wins and excess(1e-12) > 0 else 0.0
    high = brentq(excess, best, 1 - 1e-12) if losses and excess(1 - 1e-12) > 0 else 1.0
    return float(low), float(high)


@dataclass(frozen=True)
class Duel:
    """What the votes between the first contestant and one other say."""

    other: int
    """Index of the other."""
    wins: int
    losses: int
    ties: int
    settled: bool
    """Whether the first one is the better one, at any time."""
    low: float
    high: float
    """Ends of the interval of the share of decided votes won that is valid at all times."""
    votes_needed: int | None
    """Decided votes that would likely settle it, if the next ones go like those so far; None if
    that is unknown."""


@dataclass(frozen=True)
class StoppingRule:
    """Whether first place is settled."""

    first: int
    """Index of the contestant that may be first."""
    duels: tuple[Duel, ...]
    """The first one against each other one, open ones first."""

    @property
    def is_settled(self) -> bool:
        """Whether voting can stop: the first one beats every other one."""
        return all(duel.settled for duel in self.duels)


def check_stopping(tally: Tally, order: Sequence[int], alpha: float = ALPHA) -> StoppingRule | None:
    """Check whether the leading contestant beats each other one in the votes between the two.

    Each duel is tested at `alpha` divided by the number of contestants, any of which may lead by
    chance. So one that does not beat each other one is ever named first with probability `alpha` at
    most.

    Args:
        tally: the votes.
        order: indices of the contestants with votes, strongest first.
        alpha: chance of an error.

    Returns:
        None with fewer than two contestants.
    """
    if len(order) < 2:
        return None
    size = tally.num_contestants
    counts = np.zeros((size, size, 3))
    halves = np.rint(2 * tally.score).astype(int)
    np.add.at(counts, (tally.one, tally.other, halves), tally.count)
    np.add.at(counts, (tally.other, tally.one, 2 - halves), tally.count)
    limit = math.log(len(order) / alpha)
    first = order[0]
    duels = [_duel(counts[first, other], other, limit, alpha) for other in order[1:]]
    return StoppingRule(first, tuple(sorted(duels, key=lambda duel: duel.settled)))


def _duel(counts: FloatArray, other: int, limit: float, alpha: float) -> Duel:
    losses, ties, wins = (round(float(count)) for count in counts)
    gained = log_wealth(wins, losses)
    low, high = share_interval(wins, losses, alpha)
    needed: int | None = 0
    if gained < limit:
        needed = None
        rate = wins / (wins + losses) if wins + losses else 0.5
        if rate > 0.5:
            number = 1
            while (
                number < 10**7
                and log_wealth(wins + rate * number, losses + (1 - rate) * number) < limit
            ):
                number = math.ceil(number * 1.1)
            needed = number
    return Duel(other, wins, losses, ties, gained >= limit, low, high, needed)
