"""Prediction-powered ratings: many votes of a judge, corrected by the user's own.

After Angelopoulos et al. (2023, "Prediction-powered inference") and PPI++ (2024): within each pair,
the mean of the judge's votes on all matches is shifted by how much it differed from the user where
both voted, so that a judge's bias cancels and its agreement narrows the interval. Strata are pairs
(Fisch et al., 2024), so the judge may have seen other pairs more often than the user. Within a
pair, the matches that the user voted on must be like the others: chosen without regard to the
answers. ppi-python has no Bradley-Terry model and needs numba and statsmodels, so it is not used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chatlm_arena.pairing import Z_95
from chatlm_arena.ratings import MEAN_RATING, POINTS_PER_LOG_STRENGTH
from chatlm_arena.statistics.win_matrices import fit_win_matrices
from chatlm_arena.votes import FloatArray, IntArray

MIN_SHARED = 30
"""Matches judged by both that are needed at least; below, the correction itself is too
uncertain."""


@dataclass(frozen=True, eq=False)
class JudgedPairs:
    """Votes on matches, one per row."""

    one: IntArray
    """Shape (rows,): indices of contestants."""
    other: IntArray
    """Shape (rows,): indices of their opponents."""
    judge: FloatArray
    """Shape (rows,): the judge's scores of `one`, 1, 0.5 or 0; nan if it has no vote."""
    human: FloatArray
    """Shape (rows,): the user's scores; nan if the user has no vote."""


@dataclass(frozen=True, eq=False)
class PredictionPowered:
    """Ratings by the user's votes, with and without a judge's."""

    rating: FloatArray
    """Shape (contestants,), on the Elo scale with mean 1500."""
    error: FloatArray
    """Standard errors of `rating`."""
    human_rating: FloatArray
    """The same by the user's votes alone."""
    human_error: FloatArray
    trust: float
    """Weight of the judge's votes, 0 to 1: tuned to give the narrowest intervals."""
    shared: int
    """Matches with both votes."""
    judge_only: int
    """Matches with the judge's vote alone, in pairs that the user knows."""

    @property
    def interval(self) -> tuple[FloatArray, FloatArray]:
        """Ends of the 95 % intervals of `rating`."""
        return self.rating - Z_95 * self.error, self.rating + Z_95 * self.error

    @property
    def human_interval(self) -> tuple[FloatArray, FloatArray]:
        """Ends of the 95 % intervals of `human_rating`."""
        half = Z_95 * self.human_error
        return self.human_rating - half, self.human_rating + half


def fit_prediction_powered(votes: JudgedPairs, num_contestants: int) -> PredictionPowered:
    """Rate contestants by the user's votes, narrowed by the judge's.

    The estimated strengths are those of the expected score of the user's vote, a tie as half a win.

    Args:
        votes: all matches; those without the user's vote only count in pairs that the user has
            voted on.
        num_contestants: number of contestants.
    """
    pairs = _sum_pairs(votes, num_contestants)
    trust = _tune(pairs)
    human = _solve(pairs, 0.0, num_contestants)
    powered = _solve(pairs, trust, num_contestants)
    return PredictionPowered(
        *powered,
        *human,
        trust=trust,
        shared=int(pairs.shared.sum()),
        judge_only=int(pairs.extra[pairs.number > 0].sum()),
    )


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Sums by pair, and the user's votes."""

    one: IntArray
    other: IntArray
    number: FloatArray
    """The user's votes."""
    shared: FloatArray
    """Those of them on matches that the judge has judged too."""
    extra: FloatArray
    """The judge's other votes."""
    human_mean: FloatArray
    judge_mean: FloatArray
    """Mean of the judge's votes on shared matches, extra ones and all of them, shape (3, pairs)."""
    judge_variance: FloatArray
    covariance: FloatArray
    """Within the pair, of both votes on shared matches."""
    row_pair: IntArray
    """The pair of each vote of the user."""
    row_human: FloatArray
    row_judge: FloatArray


def _sum_pairs(votes: JudgedPairs, size: int) -> _Pairs:
    swap = votes.one > votes.other
    one, other = np.where(swap, votes.other, votes.one), np.where(swap, votes.one, votes.other)
    human = np.where(swap, 1 - votes.human, votes.human)
    judge = np.where(swap, 1 - votes.judge, votes.judge)
    keys, pair = np.unique(one * size + other, return_inverse=True)
    width = len(keys)

    def total(values: FloatArray) -> FloatArray:
        return np.bincount(pair, values, minlength=width).astype(np.float64)

    has_human, has_judge = np.isfinite(human), np.isfinite(judge)
    both, alone = has_human & has_judge, has_judge & ~has_human
    filled = np.where(has_judge, judge, 0.0)
    number, shared, extra = (total(mask.astype(np.float64)) for mask in (has_human, both, alone))
    human_mean = _divide(total(np.where(has_human, human, 0.0)), number)
    shared_human = _divide(total(np.where(both, human, 0.0)), shared)
    means = np.array(
        [
            _divide(total(filled * both), shared),
            _divide(total(filled * alone), extra),
            _divide(total(filled), shared + extra),
        ]
    )
    squares = total(np.where(has_judge, (filled - means[2][pair]) ** 2, 0.0))
    products = total(np.where(both, (human - shared_human[pair]) * (filled - means[0][pair]), 0.0))
    judged = shared + extra
    return _Pairs(
        one=keys // size,
        other=keys % size,
        number=number,
        shared=shared,
        extra=extra,
        human_mean=human_mean,
        judge_mean=means,
        judge_variance=np.where(judged > 1, _divide(squares, judged - 1), 0.25),
        covariance=_divide(products, shared - 1),
        row_pair=pair[has_human],
        row_human=human[has_human],
        row_judge=judge[has_human],
    )


def _divide(one: FloatArray, other: FloatArray) -> FloatArray:
    return np.divide(one, other, out=np.zeros_like(one), where=other > 0)


def _tune(pairs: _Pairs) -> float:
    """Return the weight of the judge that gives the scores of all pairs the least variance."""
    used = (pairs.shared > 1) & (pairs.extra > 0)
    gain = (pairs.number * pairs.covariance)[used].sum()
    cost = (
        pairs.number**2
        * pairs.judge_variance
        * (_divide(np.ones_like(pairs.shared), pairs.shared)
           + _divide(np.ones_like(pairs.extra), pairs.extra))
    )[used].sum()  # fmt: skip
    return float(np.clip(gain / cost, 0.0, 1.0)) if cost > 0 else 0.0


def _solve(pairs: _Pairs, trust: float, size: int) -> tuple[FloatArray, FloatArray]:
    """Return ratings and their standard errors."""
    known = pairs.number > 0
    used = known & (pairs.shared > 0) & (pairs.extra > 0)
    weight = np.where(used, trust, 0.0)
    score = pairs.human_mean - weight * (pairs.judge_mean[0] - pairs.judge_mean[1])
    won = np.zeros((1, size, size))
    won[0, pairs.one, pairs.other] = pairs.number * score
    won[0, pairs.other, pairs.one] = pairs.number * (1 - score)
    logs = fit_win_matrices(won)[0]
    chance = 1 / (1 + np.exp(logs[pairs.other] - logs[pairs.one]))
    information = _laplacian(pairs, pairs.number * chance * (1 - chance), size) + 1 / size
    # what each vote adds to number * (score - chance): the judge's part only where it has voted
    pair = pairs.row_pair
    judged = np.isfinite(pairs.row_judge)
    factor = _divide(pairs.number, pairs.shared)[pair] * weight[pair]
    shift = np.where(judged, pairs.row_judge - pairs.judge_mean[2][pair], 0.0)
    residual = pairs.row_human - chance[pair] - factor * shift
    variance = np.bincount(pair, residual**2, minlength=len(pairs.number)).astype(np.float64)
    total = float(pairs.number.sum())
    variance *= total / max(total - size + 1, 1.0)
    variance += weight**2 * pairs.number**2 * _divide(pairs.judge_variance, pairs.extra)
    inverse = np.linalg.inv(information)
    covariance = inverse @ _laplacian(pairs, variance, size) @ inverse
    rating: FloatArray = MEAN_RATING + POINTS_PER_LOG_STRENGTH * logs
    error: FloatArray = POINTS_PER_LOG_STRENGTH * np.sqrt(np.diag(covariance))
    return rating, error


def _laplacian(pairs: _Pairs, weight: FloatArray, size: int) -> FloatArray:
    """Return the sum over pairs of weight * (e_one - e_other)(e_one - e_other)^T."""
    out = np.zeros((size, size))
    for one, other, sign in (
        (pairs.one, pairs.one, 1),
        (pairs.other, pairs.other, 1),
        (pairs.one, pairs.other, -1),
        (pairs.other, pairs.one, -1),
    ):
        np.add.at(out, (one, other), sign * weight)
    return out
