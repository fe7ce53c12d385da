"""Choice of the next pair, and the number of votes needed to separate two contestants."""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np

from chatlm_arena.ratings import POINTS_PER_LOG_STRENGTH, BradleyTerryEstimate, fit_strengths
from chatlm_arena.votes import FloatArray, Tally, win_matrix

Z_95 = 1.959963984540054
"""Standard errors on each side of a 95 % interval."""

_PRIOR_INFORMATION = 0.02
"""Prior information of every pair, so that contestants that never met can be compared."""


class Pairing(StrEnum):
    """How the next pair is chosen."""

    RANDOM = "random"
    ROUND_ROBIN = "round-robin"
    """The pair with the fewest votes."""
    INFORMATIVE = "informative"
    """The pair whose vote shrinks the intervals most."""


def choose_pair(tally: Tally, pairing: Pairing, rng: np.random.Generator) -> tuple[int, int]:
    """Choose two contestants as indices, the smaller first; equally good pairs are drawn from.

    Raises:
        ValueError: there are fewer than two contestants.
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
    """Estimate how much one more vote of each pair shrinks the intervals.

    The gain is the first-order change of the sum of the cubed variances of all log-strengths; the
    cubes give wide intervals more weight.

    Returns:
        Shape (contestants, contestants), symmetric, with zeros on the diagonal.
    """
    information = _information(fit_strengths(tally))
    won = win_matrix(tally)
    weight = information * (won + won.T) + _PRIOR_INFORMATION / tally.num_contestants
    np.fill_diagonal(weight, 0.0)
    laplacian = np.diag(weight.sum(axis=1)) - weight
    covariance = np.linalg.pinv(laplacian, hermitian=True).astype(np.float64)
    squares = (covariance * np.diag(covariance) ** 2) @ covariance
    gains: FloatArray = information * _pairwise_variance(squares)
    gains /= 1 + information * _pairwise_variance(covariance)
    np.fill_diagonal(gains, 0.0)
    return gains


def votes_to_separate(estimate: BradleyTerryEstimate, one: int, other: int) -> int | None:
    """Estimate the number of further votes that would separate two contestants at 95 %.

    Returns:
        0 if they are already separate; None if their ratings do not differ, so that no number of
        votes can be given.
    """
    difference = float(estimate.rating[one] - estimate.rating[other]) / POINTS_PER_LOG_STRENGTH
    samples = (
        estimate.rating_samples[:, one] - estimate.rating_samples[:, other]
    ) / POINTS_PER_LOG_STRENGTH
    if abs(difference) < 1e-6:
        return None
    needed: float = (Z_95 / difference) ** 2
    variance = float(samples.var())
    available = 1.0 / variance if variance > 0 else 0.0
    per_vote = float(_information(estimate.strength)[one, other])
    return max(0, math.ceil((needed - available) / per_vote))


def _information(strength: FloatArray) -> FloatArray:
    """Return the Fisher information of one vote about each pair's log-strength difference."""
    chance = strength[:, np.newaxis] / (strength[:, np.newaxis] + strength)
    out: FloatArray = chance * (1 - chance)
    return out


def _pairwise_variance(matrix: FloatArray) -> FloatArray:
    """Return (e_i - e_j)^T M (e_i - e_j) for all i and j, with unit vectors e."""
    diagonal = np.diag(matrix)
    out: FloatArray = diagonal[:, np.newaxis] + diagonal - 2 * matrix
    return out
