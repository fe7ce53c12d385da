"""Elo ratings, and Bradley-Terry strengths with bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chatlm import UsageError
from chatlm_arena.votes import FloatArray, IntArray, Tally, Votes, games_played, win_matrix

MIN_K, MAX_K = 4.0, 32.0


@dataclass(frozen=True)
class EloRules:
    """Parameters of the Elo system.

    Raises:
        UsageError: a value is out of its range.
    """

    k: float = 32.0
    """The largest change of a rating by one match, 4 to 32."""
    initial_rating: float = 1500.0
    scale: float = 400.0
    """Rating difference at which the stronger is expected to win ten times as often."""

    def __post_init__(self) -> None:
        if not MIN_K <= self.k <= MAX_K:
            raise UsageError(
                f"k must be from {MIN_K:g} to {MAX_K:g}, not {self.k:g}.",
                hint="With a small k ratings are stable, with a large one they adapt quickly.",
            )
        if not self.scale > 0:
            raise UsageError(f"The scale must be above 0, not {self.scale:g}.")


def expected_score(rating: float, opponent_rating: float, scale: float = 400.0) -> float:
    """Return the expected score of a match, 0 to 1."""
    return float(1.0 / (1.0 + 10.0 ** ((opponent_rating - rating) / scale)))


def elo_history(votes: Votes, elo_rules: EloRules | None = None) -> tuple[FloatArray, FloatArray]:
    """Return both ratings after each match.

    Returns:
        The left and the right side's ratings, each of shape (votes,).
    """
    elo_rules = elo_rules or EloRules()
    rating = [elo_rules.initial_rating] * len(votes.names)
    lefts, rights = [], []
    rows = zip(votes.left.tolist(), votes.right.tolist(), votes.score.tolist(), strict=True)
    for left, right, score in rows:
        change = elo_rules.k * (
            score - expected_score(rating[left], rating[right], elo_rules.scale)
        )
        if left != right:
            rating[left] += change
            rating[right] -= change
        lefts.append(rating[left])
        rights.append(rating[right])
    return np.array(lefts, dtype=np.float64), np.array(rights, dtype=np.float64)


def elo_ratings(votes: Votes, elo_rules: EloRules | None = None) -> FloatArray:
    """Return the ratings after all matches, shape (contestants,).

    Their mean is always `elo_rules.initial_rating`.
    """
    elo_rules = elo_rules or EloRules()
    rating = np.full(len(votes.names), elo_rules.initial_rating, dtype=np.float64)
    lefts, rights = elo_history(votes, elo_rules)
    at = np.empty(2 * len(votes), dtype=np.int64)
    at[0::2], at[1::2] = votes.left, votes.right
    after = np.empty(2 * len(votes))
    after[0::2], after[1::2] = lefts, rights
    rating[at] = after  # the last of several values for one index wins
    return rating


POINTS_PER_LOG_STRENGTH = 400.0 / np.log(10.0)
"""Rating points per unit of log-strength on the Elo scale."""

MEAN_RATING = 1500.0
"""Mean of all Bradley-Terry ratings on the Elo scale."""

BOOTSTRAP_SAMPLES = 200

CONFIDENCE_LEVEL = 0.95

MIN_GAMES = 10
"""Games below which no interval is given, since resamples of so few votes mislead."""

_TOLERANCE, _MAX_ITERATIONS = 1e-8, 1000
"""Stopping rule of the iteration: the change of the strengths, and the number of steps."""


@dataclass(frozen=True, eq=False)
class BradleyTerryEstimate:
    """Estimated strengths, as arrays of shape (contestants,) unless stated otherwise."""

    strength: FloatArray
    """Strengths, which sum to 1: i beats j with probability `strength[i] / (strength[i] +
    strength[j])`."""
    strength_low: FloatArray
    strength_high: FloatArray
    rating: FloatArray
    """The strengths on the Elo scale, with mean `MEAN_RATING`."""
    rating_low: FloatArray
    rating_high: FloatArray
    rating_samples: FloatArray
    """Ratings of each bootstrap sample, shape (resamples, contestants)."""


def fit_strengths(tally: Tally) -> FloatArray:
    """Return the maximum-likelihood strengths, shape (contestants,), with sum 1.

    If a group never lost or never won against the others, no finite maximum exists; then one tie
    is added for every contestant, spread evenly over all others.
    """
    size = tally.num_contestants
    if size < 2 or not len(tally.count):
        return np.full(size, 1 / max(size, 1))
    from evalica import Winner, bradley_terry

    one, other, score, count = tally.one, tally.other, tally.score, tally.count
    if not is_strongly_connected(tally):
        upper, lower = np.triu_indices(size, 1)
        one, other = np.concatenate([one, upper]), np.concatenate([other, lower])
        score = np.concatenate([score, np.full(len(upper), 0.5)])
        count = np.concatenate([count, np.full(len(upper), 1 / (size - 1))])
    winners = [(Winner.Y, Winner.Draw, Winner.X)[half] for half in (2 * score).astype(int).tolist()]
    scores = bradley_terry(
        one.tolist(),
        other.tolist(),
        winners,
        weights=count.tolist(),
        tolerance=_TOLERANCE,
        limit=_MAX_ITERATIONS,
    ).scores
    raw = scores.reindex(range(size)).to_numpy(dtype=np.float64)
    strength: FloatArray = raw / raw.sum()
    return strength


def estimate_strengths(
    tally: Tally, *, resamples: int = BOOTSTRAP_SAMPLES, seed: int = 0
) -> BradleyTerryEstimate:
    """Estimate strengths with bootstrap intervals at `CONFIDENCE_LEVEL`.

    With fewer than `MIN_GAMES` games, a strength's interval is 0 to 1 and a rating's is infinite.
    Votes are resampled within the tally, so a million cost no more than a thousand.

    Args:
        tally: the votes.
        resamples: number of bootstrap samples; fewer than about 100 give rough intervals.
        seed: seed of the resampling.
    """
    strength = fit_strengths(tally)
    samples = [fit_strengths(sample) for sample in _bootstrap(tally, resamples, seed)]
    strengths = np.array(samples or [strength])
    ratings = to_elo_scale(strengths)
    ends = (50 * (1 - CONFIDENCE_LEVEL), 100 - 50 * (1 - CONFIDENCE_LEVEL))
    strength_low, strength_high = np.percentile(strengths, ends, axis=0)
    rating_low, rating_high = np.percentile(ratings, ends, axis=0)
    rating = to_elo_scale(strength)
    few = games_played(tally) < MIN_GAMES
    return BradleyTerryEstimate(
        strength=strength,
        strength_low=np.where(few, 0.0, np.minimum(strength_low, strength)),
        strength_high=np.where(few, 1.0, np.maximum(strength_high, strength)),
        rating=rating,
        rating_low=np.where(few, -np.inf, np.minimum(rating_low, rating)),
        rating_high=np.where(few, np.inf, np.maximum(rating_high, rating)),
        rating_samples=ratings,
    )


def estimate_log_strengths(tally: Tally) -> FloatArray:
    """Return the logarithms of `fit_strengths`, with mean 0."""
    logs = np.log(fit_strengths(tally))
    out: FloatArray = logs - logs.mean() if logs.size else logs
    return out


def to_elo_scale(strength: FloatArray) -> FloatArray:
    """Convert strengths, along the last axis, to the Elo scale with mean `MEAN_RATING`."""
    if not strength.size:
        return strength
    logs = np.log(strength)
    rating: FloatArray = MEAN_RATING + POINTS_PER_LOG_STRENGTH * (
        logs - logs.mean(axis=-1, keepdims=True)
    )
    return rating


def _bootstrap(tally: Tally, resamples: int, seed: int) -> list[Tally]:
    if not tally.total:
        return []
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(tally.total, tally.count / tally.count.sum(), size=resamples)
    return [_with_counts(tally, count) for count in counts]


def _with_counts(tally: Tally, count: IntArray) -> Tally:
    nonzero = count > 0
    return Tally(
        tally.one[nonzero],
        tally.other[nonzero],
        tally.score[nonzero],
        count[nonzero].astype(float),
        tally.num_contestants,
    )


def is_strongly_connected(tally: Tally) -> bool:
    """Return whether a chain of wins and ties leads from everyone to everyone (Ford, 1957)."""
    reached = (win_matrix(tally) > 0) | np.eye(tally.num_contestants, dtype=bool)
    for _ in range(tally.num_contestants.bit_length()):
        steps = reached.astype(np.float32)
        reached = steps @ steps > 0  # paths of up to twice the length
    return bool(reached.all())
