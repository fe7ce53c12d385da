"""Elo, Bradley-Terry with bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chatlm import UsageError
from chatlm_arena.votes import FloatArray, IntArray, Tally, Votes, games_played, win_matrix

MIN_K, MAX_K = 4.0, 32.0


@dataclass(frozen=True)
class EloRules:
    """How ratings begin and move.

    Raises:
        UsageError: a value is out of its range.
    """

    k: float = 32.0
    """The most that one match changes a rating, 4 to 32."""
    initial_rating: float = 1500.0
    scale: float = 400.0
    """Points between two of whom one is expected to win ten times as often."""

    def __post_init__(self) -> None:
        if not MIN_K <= self.k <= MAX_K:
            raise UsageError(
                f"k must be from {MIN_K:g} to {MAX_K:g}, not {self.k:g}.",
                hint="A small k makes steady ratings, a large one quick ones.",
            )
        if not self.scale > 0:
            raise UsageError(f"The scale must be above 0, not {self.scale:g}.")


def expected_score(rating: float, opponent_rating: float, scale: float = 400.0) -> float:
    """What a contestant is expected to get from a match, 0 to 1."""
    return float(1.0 / (1.0 + 10.0 ** ((opponent_rating - rating) / scale)))


def elo_history(votes: Votes, elo_rules: EloRules | None = None) -> tuple[FloatArray, FloatArray]:
    """Both ratings after each match.

    Returns:
        the left side's and the right side's, each of shape (votes,).
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
    """The ratings after all matches, shape (contestants,); their mean stays `rules.start`."""
    elo_rules = elo_rules or EloRules()
    rating = np.full(len(votes.names), elo_rules.initial_rating, dtype=np.float64)
    lefts, rights = elo_history(votes, elo_rules)
    at = np.empty(2 * len(votes), dtype=np.int64)
    at[0::2], at[1::2] = votes.left, votes.right
    after = np.empty(2 * len(votes))
    after[0::2], after[1::2] = lefts, rights
    rating[at] = after  # of several values for one index the last one stays
    return rating


POINTS_PER_LOG_STRENGTH = 400.0 / np.log(10.0)
"""Rating points of one unit of log-strength, as Elo has them."""


MEAN_RATING = 1500.0
"""The mean of all ratings."""


BOOTSTRAP_SAMPLES = 200


CONFIDENCE_LEVEL = 0.95


MIN_GAMES = 10
"""Games below which nothing is said of how sure a strength is: resamples of so few lie."""


_TOLERANCE, _MAX_ITERATIONS = 1e-8, 1000
"""When the iteration ends: at so small a change, or after so many steps."""


@dataclass(frozen=True, eq=False)
class BradleyTerryEstimate:
    """What the votes say of each contestant, all arrays of shape (contestants,)."""

    strength: FloatArray
    """Strengths that sum to 1: a contestant beats another with probability
    share / (share + the other's)."""
    strength_low: FloatArray
    strength_high: FloatArray
    rating: FloatArray
    """The same on Elo's scale around `MIDDLE`."""
    rating_low: FloatArray
    rating_high: FloatArray
    rating_samples: FloatArray
    """Shape (resamples, contestants): the ratings of each resample."""


def fit_strengths(tally: Tally) -> FloatArray:
    """The likeliest strengths, shape (contestants,), with sum 1.

    Where someone never lost or never won against the others, so that no finite strengths are the
    likeliest, everyone is taken to have drawn once more, in equal parts with all others.
    """
    size = tally.num_contestants
    if size < 2 or not len(tally.count):
        return np.full(size, 1 / max(size, 1))
    from evalica import Winner, bradley_terry

    one, other, score, count = tally.one, tally.other, tally.score, tally.count
    if not _is_strongly_connected(tally):
        upper, lower = np.triu_indices(size, 1)
        one, other = np.concatenate([one, upper]), np.concatenate([other, lower])
        score = np.concatenate([score, np.full(len(upper), 0.5)])
        count = np.concatenate([count, np.full(len(upper), 1 / (size - 1))])
    winners = [(Winner.Y, Winner.Draw, Winner.X)[half] for half in (2 * score).astype(int).tolist()]
    found = bradley_terry(
        one.tolist(),
        other.tolist(),
        winners,
        weights=count.tolist(),
        tolerance=_TOLERANCE,
        limit=_MAX_ITERATIONS,
    ).scores
    raw = found.reindex(range(size)).to_numpy(dtype=np.float64)
    share: FloatArray = raw / raw.sum()
    return share


def estimate_strengths(
    tally: Tally, *, resamples: int = BOOTSTRAP_SAMPLES, seed: int = 0
) -> BradleyTerryEstimate:
    """Strengths, with the intervals in which `LEVEL` of the resamples lie.

    With fewer than `FEWEST` games an interval reaches from 0 to 1, in ratings without an end.
    Votes are resampled within the tally, so a million of them cost no more than a thousand.

    Args:
        tally: the votes.
        resamples: how many; fewer than some 100 give rough intervals.
        seed: of the resampling; the same gives the same intervals.
    """
    share = fit_strengths(tally)
    shares = np.array([fit_strengths(a) for a in _bootstrap(tally, resamples, seed)] or [share])
    ratings = to_elo_scale(shares)
    ends = (50 * (1 - CONFIDENCE_LEVEL), 100 - 50 * (1 - CONFIDENCE_LEVEL))
    share_low, share_high = np.percentile(shares, ends, axis=0)
    rating_low, rating_high = np.percentile(ratings, ends, axis=0)
    rating = to_elo_scale(share)
    few = games_played(tally) < MIN_GAMES
    return BradleyTerryEstimate(
        strength=share,
        strength_low=np.where(few, 0.0, np.minimum(share_low, share)),
        strength_high=np.where(few, 1.0, np.maximum(share_high, share)),
        rating=rating,
        rating_low=np.where(few, -np.inf, np.minimum(rating_low, rating)),
        rating_high=np.where(few, np.inf, np.maximum(rating_high, rating)),
        rating_samples=ratings,
    )


def to_elo_scale(strength: FloatArray) -> FloatArray:
    """Strengths on Elo's scale, along the last axis, with the mean `MIDDLE`."""
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
    draw = np.random.default_rng(seed)
    counts = draw.multinomial(tally.total, tally.count / tally.count.sum(), size=resamples)
    return [_with_counts(tally, count) for count in counts]


def _with_counts(tally: Tally, count: IntArray) -> Tally:
    kept = count > 0
    return Tally(
        tally.one[kept],
        tally.other[kept],
        tally.score[kept],
        count[kept].astype(float),
        tally.num_contestants,
    )


def _is_strongly_connected(tally: Tally) -> bool:
    """Whether from everyone a chain of wins and ties leads to everyone else (Ford, 1957)."""
    reached = (win_matrix(tally) > 0) | np.eye(tally.num_contestants, dtype=bool)
    for _ in range(tally.num_contestants.bit_length()):
        steps = reached.astype(np.float32)
        reached = steps @ steps > 0  # chains of twice the length
    return bool(reached.all())
