"""Strengths by maximum likelihood with ties and covariates, and robust standard errors.

Davidson (1970, "On extending the Bradley-Terry model to accommodate ties in paired comparison
experiments") models ties: with the difference η of two log-strengths, plus the effects of
covariates, a win, a loss and a tie have odds e^(η/2), e^(-η/2) and ν. Half-wins are the logistic
model of the score instead. Neither LMArena's arena-rank (needs JAX) nor statsmodels (no such model)
is used: both fits are one Newton iteration over scipy's sparse matrices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from chatlm_arena.pairing import Z_95
from chatlm_arena.ratings import MEAN_RATING, POINTS_PER_LOG_STRENGTH, is_strongly_connected
from chatlm_arena.votes import FloatArray, IntArray, Tally, Votes, tally_votes

PRIOR_PRECISION = 0.01
"""Precision of the normal prior on effects and log ν (standard deviation 10), so that they stay
finite if votes never or always end in a tie, or if a covariate decides all of them."""

_TOLERANCE, _MAX_ITERATIONS = 1e-9, 100
"""Stopping rule of Newton's method: the largest step, and the number of steps."""


class Ties(StrEnum):
    """How ties enter the ratings."""

    HALF_WINS = "half-wins"
    """A tie is half a win for both (Bradley and Terry)."""
    DAVIDSON = "davidson"
    """A tie is a third outcome, likelier between equals."""


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Comparisons of two contestants, one per row."""

    one: IntArray
    """Shape (rows,): indices of contestants."""
    other: IntArray
    """Shape (rows,): indices of their opponents."""
    score: FloatArray
    """Shape (rows,): scores of `one`, 1, 0.5 or 0."""
    count: FloatArray
    """Shape (rows,): numbers of equal votes."""
    num_contestants: int
    covariates: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    """Shape (rows, covariates): differences, `one` minus `other`; empty for none."""
    cluster: IntArray | None = None
    """Shape (rows,): votes with the same number are not independent, as those of one ranking."""


def comparisons_from_votes(
    votes: Votes, covariates: FloatArray | None = None, cluster: IntArray | None = None
) -> Comparisons:
    """Create comparisons from votes; without covariates and clusters equal votes are counted.

    Args:
        votes: the votes.
        covariates: shape (votes, covariates), left minus right.
        cluster: shape (votes,); see `Comparisons.cluster`.
    """
    size = len(votes.names)
    if covariates is None and cluster is None:
        cells = tally_votes(votes)
        return Comparisons(cells.one, cells.other, cells.score, cells.count, size)
    covariates = np.zeros((len(votes), 0)) if covariates is None else covariates
    return Comparisons(
        votes.left, votes.right, votes.score, np.ones(len(votes)), size, covariates, cluster
    )


@dataclass(frozen=True, eq=False)
class PreferenceFit:
    """Estimates with standard errors."""

    log_strength: FloatArray
    """Shape (contestants,), with mean 0."""
    effects: FloatArray
    """Shape (covariates,): change of the log-odds by one unit of each covariate."""
    log_tie: float
    """log ν; nan with half-wins."""
    covariance: FloatArray
    """Robust covariance of log-strengths, effects and, if modelled, log ν, in this order."""

    @property
    def rating(self) -> FloatArray:
        """Ratings on the Elo scale with mean 1500, shape (contestants,)."""
        out: FloatArray = MEAN_RATING + POINTS_PER_LOG_STRENGTH * self.log_strength
        return out

    @property
    def rating_error(self) -> FloatArray:
        """Standard errors of `rating`, shape (contestants,)."""
        size = len(self.log_strength)
        errors: FloatArray = POINTS_PER_LOG_STRENGTH * np.sqrt(np.diag(self.covariance)[:size])
        return errors

    @property
    def rating_interval(self) -> tuple[FloatArray, FloatArray]:
        """Ends of the 95 % intervals of `rating`, each of shape (contestants,)."""
        half = Z_95 * self.rating_error
        return self.rating - half, self.rating + half

    @property
    def effect_error(self) -> FloatArray:
        """Standard errors of `effects`, shape (covariates,)."""
        start = len(self.log_strength)
        stop = start + len(self.effects)
        errors: FloatArray = np.sqrt(np.diag(self.covariance)[start:stop])
        return errors

    def outcome_chances(self, difference: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the chances of a win, a tie and a loss at differences of log-strength.

        With half-wins ties have no chance of their own: the first is the expected score.
        """
        if np.isnan(self.log_tie):
            win = _logistic(np.asarray(difference, dtype=np.float64))
            return win, np.zeros_like(win), 1 - win
        return _davidson(np.asarray(difference, dtype=np.float64), self.log_tie)


def fit_preferences(data: Comparisons, ties: Ties = Ties.DAVIDSON) -> PreferenceFit:
    """Estimate strengths, effects and the tie parameter.

    Where a group never lost or never won against the others, one vote of each contestant, spread
    evenly over all others and half won, half lost, keeps the estimate finite, as in
    `chatlm_arena.ratings.fit_strengths`.

    Args:
        data: the comparisons; rows of a contestant against itself are ignored.
        ties: how ties enter.
    """
    from scipy import sparse

    size, modelled = data.num_contestants, ties is Ties.DAVIDSON
    width = data.covariates.shape[1] if data.covariates.size else 0
    keep = data.one != data.other
    one, other, score, count = (
        values[keep] for values in (data.one, data.other, data.score, data.count)
    )
    covariates = data.covariates[keep] if width else np.zeros((len(one), 0))
    observed = len(one)
    if size > 1 and observed and not is_strongly_connected(Tally(one, other, score, count, size)):
        upper, lower = np.triu_indices(size, 1)
        one = np.concatenate([one, upper, upper])
        other = np.concatenate([other, lower, lower])
        score = np.concatenate([score, np.ones(len(upper)), np.zeros(len(upper))])
        count = np.concatenate([count, np.full(2 * len(upper), 0.5 / (size - 1))])
        covariates = np.concatenate([covariates, np.zeros((2 * len(upper), width))])
    rows = np.arange(len(one))
    design = sparse.csr_array(
        sparse.hstack(
            [
                sparse.csr_array((np.ones(len(one)), (rows, one)), shape=(len(one), size))
                - sparse.csr_array((np.ones(len(one)), (rows, other)), shape=(len(one), size)),
                sparse.csr_array(covariates),
            ]
        )
    )
    prior = np.zeros(size + width + modelled)
    prior[size:] = PRIOR_PRECISION
    parameters = np.zeros(size + width + modelled)
    tied = score == 0.5

    def likelihood(values: FloatArray) -> float:
        difference = design @ values[: size + width]
        if modelled:
            log_tie = values[-1]
            log_total = np.logaddexp(
                np.logaddexp(difference / 2, -difference / 2), np.full_like(difference, log_tie)
            )
            each = (score - 0.5) * difference + tied * log_tie - log_total
        else:
            each = score * difference - np.logaddexp(0, difference)
        return float(count @ each - 0.5 * values @ (prior * values))

    value = likelihood(parameters)
    bread, residuals = np.eye(len(parameters)), _Residuals.at(parameters, design, score, modelled)
    for _ in range(_MAX_ITERATIONS):
        residuals = _Residuals.at(parameters, design, score, modelled)
        gradient = -prior * parameters
        gradient[: size + width] += design.T @ (count * residuals.score)
        if modelled:
            gradient[-1] += count @ residuals.tie
        bread = _information(design, count, residuals, modelled) + np.diag(prior)
        bread[:size, :size] += 1 / max(size, 1)  # pins the mean of the log-strengths at 0
        step = np.linalg.solve(bread, gradient)
        scale = 1.0
        while (new := likelihood(parameters + scale * step)) < value - 1e-12 * abs(value):
            scale /= 2
            if scale < 1e-10:
                break
        parameters, value = parameters + scale * step, new
        if np.abs(step).max(initial=0.0) < _TOLERANCE:
            break
    cluster = None if data.cluster is None else data.cluster[keep]
    inverse = np.linalg.inv(bread)
    covariance = inverse @ _meat(design, count, residuals, modelled, observed, cluster) @ inverse
    log_strength = parameters[:size] - parameters[:size].mean() if size else parameters[:size]
    return PreferenceFit(
        log_strength,
        parameters[size : size + width],
        float(parameters[-1]) if modelled else float("nan"),
        covariance,
    )


@dataclass(frozen=True, eq=False)
class _Residuals:
    """Observed minus expected, and the variances, of each row's score and tie."""

    score: FloatArray
    tie: FloatArray
    score_variance: FloatArray
    covariance: FloatArray
    tie_variance: FloatArray

    @classmethod
    def at(
        cls, parameters: FloatArray, design: Any, score: FloatArray, modelled: bool
    ) -> _Residuals:
        """Return the residuals at some parameters."""
        width = len(parameters) - modelled
        difference: FloatArray = design @ parameters[:width]
        if not modelled:
            win = _logistic(difference)
            none = np.zeros_like(win)
            return cls(score - win, none, win * (1 - win), none, none)
        win, tie, loss = _davidson(difference, float(parameters[-1]))
        mean = (win - loss) / 2
        return cls(
            score - 0.5 - mean,
            (score == 0.5) - tie,
            (win + loss) / 4 - mean**2,
            -mean * tie,
            tie * (1 - tie),
        )


def _information(
    design: Any, count: FloatArray, residuals: _Residuals, modelled: bool
) -> FloatArray:
    from scipy import sparse

    weighted = sparse.diags_array(count * residuals.score_variance) @ design
    block = (design.T @ weighted).toarray()
    if not modelled:
        return np.asarray(block, dtype=np.float64)
    edge = design.T @ (count * residuals.covariance)
    corner = float(count @ residuals.tie_variance)
    return np.block([[block, edge[:, np.newaxis]], [edge[np.newaxis], np.array([[corner]])]])


def _meat(
    design: Any,
    count: FloatArray,
    residuals: _Residuals,
    modelled: bool,
    observed: int,
    cluster: IntArray | None,
) -> FloatArray:
    """Return the summed outer products of the scores of all independent groups of votes."""
    from scipy import sparse

    scores = sparse.diags_array(residuals.score[:observed]) @ design[:observed]
    if modelled:
        tie = sparse.csr_array(residuals.tie[:observed, np.newaxis])
        scores = sparse.csr_array(sparse.hstack([scores, tie]))
    weights = count[:observed]
    if cluster is None:
        groups = float(weights.sum())
        meat = (scores.T @ (sparse.diags_array(weights) @ scores)).toarray()
    else:
        _, number = np.unique(cluster, return_inverse=True)
        groups = float(number.max(initial=0) + 1)
        member = sparse.csr_array((weights, (number, np.arange(observed))))
        summed = member @ scores
        meat = (summed.T @ summed).toarray()
    correction = groups / (groups - 1) if groups > 1 else 1.0
    return np.asarray(meat * correction, dtype=np.float64)


def _logistic(difference: FloatArray) -> FloatArray:
    from scipy.special import expit

    out: FloatArray = expit(difference)
    return out


def _davidson(difference: FloatArray, log_tie: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    logs = np.stack([difference / 2, np.full_like(difference, log_tie), -difference / 2])
    chances = np.exp(logs - logs.max(axis=0))
    chances /= chances.sum(axis=0)
    return chances[0], chances[1], chances[2]
