"""Which two should meet next, and how many more votes tell two apart; pure functions."""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np

from chatlm_arena.ratings import POINTS_PER_LOG_STRENGTH, BradleyTerryEstimate, fit_strengths
from chatlm_arena.votes import FloatArray, Tally, win_matrix

Z_95 = 1.959963984540054
"""Standard errors on either side of a 95 % interval."""

_PRIOR_INFORMATION = 0.02
"""Information that every pair is taken to have, so that those who never met can be compared."""


class Pairing(StrEnum):
    """How the next two are chosen."""

    RANDOM = "random"
    ROUND_ROBIN = "round-robin"
    """The pair with the fewest votes."""
    INFORMATIVE = "informative"
    """The pair whose vote shrinks the intervals most."""


def choose_pair(tally: Tally, pairing: Pairing, rng: np.random.Generator) -> tuple[int, int]:
    """Two different contestants, one < other; of pairs that are as good chance decides.

    Raises:
        ValueError: there are fewer than two.
    """
    if tally.num_contestants < 2:
        raise ValueError("a match needs two contestants")
    one, other = np.triu_indices(tally.num_contestants, 1)
    if pairing is Pairing.RANDOM:
        value = np.zeros(len(one))
    elif pairing is Pairing.ROUND_ROBIN:
        won = win_matrix(tally)
        value = -(won + won.T)[one, other]
    else:
        value = information_gains(tally)[one, other]
    best = np.flatnonzero(value >= value.max() - 1e-12)
    at = int(rng.choice(best))
    return int(one[at]), int(other[at])


def information_gains(tally: Tally) -> FloatArray:
    """What one more vote of each pair takes off the intervals, of which wide ones count more.

    It is the change of the summed cubes of the variances of all log-strengths, to first order.

    Returns:
        shape (contestants, contestants), symmetric, with zeros on the diagonal.
    """
    each = _information(fit_strengths(tally))
    won = win_matrix(tally)
    weight = each * (won + won.T) + _PRIOR_INFORMATION / tally.num_contestants
    np.fill_diagonal(weight, 0.0)
    laplacian = np.diag(weight.sum(axis=1)) - weight
    covariance = np.linalg.pinv(laplacian, hermitian=True).astype(np.float64)
    squares = (covariance * np.diag(covariance) ** 2) @ covariance
    gained = each * _pairwise_variance(squares) / (1 + each * _pairwise_variance(covariance))
    np.fill_diagonal(gained, 0.0)
    out: FloatArray = gained
    return out


def votes_to_separate(estimate: BradleyTerryEstimate, one: int, other: int) -> int | None:
    """How many more votes between two would likely tell them apart at 95 %.

    Returns:
        0 where they are apart already; None where no number of votes would likely do, since
        nothing sets them apart so far.
    """
    difference = float(estimate.rating[one] - estimate.rating[other]) / POINTS_PER_LOG_STRENGTH
    samples = (
        estimate.rating_samples[:, one] - estimate.rating_samples[:, other]
    ) / POINTS_PER_LOG_STRENGTH
    if abs(difference) < 1e-6:
        return None
    wanted: float = (Z_95 / difference) ** 2
    variance = float(samples.var())
    known = 1.0 / variance if variance > 0 else 0.0
    each = float(_information(estimate.strength)[one, other])
    return max(0, math.ceil((wanted - known) / each))


def _information(strength: FloatArray) -> FloatArray:
    """What one vote of each pair tells of the difference of their log-strengths."""
    chance = strength[:, np.newaxis] / (strength[:, np.newaxis] + strength)
    out: FloatArray = chance * (1 - chance)
    return out


def _pairwise_variance(matrix: FloatArray) -> FloatArray:
    """For each i and j the value of the quadratic form at the difference of their unit vectors."""
    diagonal = np.diag(matrix)
    out: FloatArray = diagonal[:, np.newaxis] + diagonal - 2 * matrix
    return out
