"""The leaderboard: ratings by contestant, biases of the voters, and findings as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from chatlm import one_line
from chatlm_arena.pairing import Z_95, votes_to_separate
from chatlm_arena.ratings import BradleyTerryEstimate, EloRules, elo_ratings, estimate_strengths
from chatlm_arena.votes import FloatArray, Votes, tally_votes, votes_between, win_matrix

STABLE_AFTER_GAMES = 100
"""Games after which a rating is considered stable; "The Hundred-Page Language Models Book", section
2.6.3, says 100 to 200."""

MAX_VOTES_REPORTED = 100_000
"""Larger numbers of missing votes are not reported."""

MAX_PAIRS = 5
"""Number of close pairs that are reported, strongest first."""

MIN_DECIDED = 20
"""Decided votes below which no bias is reported."""


@dataclass(frozen=True)
class LeaderboardRow:
    """Ratings of one contestant."""

    name: str
    elo: float
    bradley_terry: float
    """Bradley-Terry strength; all strengths sum to 1."""
    low: float
    """Lower end of the 95 % interval of `bradley_terry`."""
    high: float
    """Upper end of the 95 % interval of `bradley_terry`."""
    rating: float
    """The strength on the Elo scale, with mean 1500."""
    rating_low: float
    rating_high: float
    games: int
    win_rate: float
    """Share of games won; a tie is half a win."""
    votes_needed: int | None = None
    """Votes that would likely separate it from the next in rank; 0 if they are separate, None if
    that is unknown or it is the last."""

    @property
    def is_stable(self) -> bool:
        """Whether it has enough votes for a stable rating."""
        return self.games >= STABLE_AFTER_GAMES

    def to_dict(self) -> dict[str, str | float | int]:
        """Return the row as `chatlm arena leaderboard --json` prints it."""
        return {
            "name": self.name,
            "elo": self.elo,
            "bradley_terry": self.bradley_terry,
            "low": self.low,
            "high": self.high,
            "games": self.games,
            "win_rate": self.win_rate,
        }


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """Ratings of all contestants that have votes."""

    votes: Votes
    """The votes; their `names` are the contestants with votes."""
    elo_rules: EloRules
    estimate: BradleyTerryEstimate
    without_votes: tuple[str, ...] = ()
    """Names of the contestants without votes."""

    @cached_property
    def rows(self) -> tuple[LeaderboardRow, ...]:
        """One row per contestant, strongest first."""
        votes, estimate = self.votes, self.estimate
        elos = elo_ratings(votes, self.elo_rules)
        won, games = self.win_matrix, self.win_matrix + self.win_matrix.T
        order = np.lexsort((np.arange(len(votes.names)), -estimate.strength))
        rows = []
        for place, at in enumerate(order.tolist()):
            below = order[place + 1] if place + 1 < len(order) else None
            count = int(games[at].sum())
            row = LeaderboardRow(
                name=votes.names[at],
                elo=float(elos[at]),
                bradley_terry=float(estimate.strength[at]),
                low=float(estimate.strength_low[at]),
                high=float(estimate.strength_high[at]),
                rating=float(estimate.rating[at]),
                rating_low=float(estimate.rating_low[at]),
                rating_high=float(estimate.rating_high[at]),
                games=count,
                win_rate=float(won[at].sum() / count),
                votes_needed=None if below is None else votes_to_separate(estimate, at, int(below)),
            )
            rows.append(row)
        return tuple(rows)

    @cached_property
    def win_matrix(self) -> FloatArray:
        """Wins of the row against the column, a tie as half a win.

        Shape (contestants, contestants), in the order of `votes.names`."""
        return win_matrix(tally_votes(self.votes))


def build_leaderboard(votes: Votes, elo_rules: EloRules | None = None) -> Leaderboard:
    """Rate all contestants from their votes; the order of the votes matters only for Elo."""
    indices = np.unique(np.concatenate([votes.left, votes.right]))
    counted = votes_between(votes, [votes.names[index] for index in indices.tolist()])
    without_votes = tuple(name for name in votes.names if name not in set(counted.names))
    return Leaderboard(
        counted, elo_rules or EloRules(), estimate_strengths(tally_votes(counted)), without_votes
    )


@dataclass(frozen=True)
class Bias:
    """How often one kind of reply won, among the votes that are not ties."""

    wins: int
    decided: int

    @property
    def rate(self) -> float | None:
        """Share of wins; 0.5 is unbiased, None without votes."""
        return self.wins / self.decided if self.decided else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % score interval of `rate`."""
        if not self.decided:
            return None
        rate, n, z = self.wins / self.decided, self.decided, Z_95
        middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * ((rate * (1 - rate) + z * z / (4 * n)) / n) ** 0.5
        return middle - half, middle + half

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0.5."""
        ends = self.interval
        return ends is not None and not ends[0] <= 0.5 <= ends[1]


def measure_side_bias(score: FloatArray) -> Bias:
    """Count how often the left side won.

    Args:
        score: shape (votes,), the left side's scores: 1, 0.5 or 0.
    """
    return Bias(int((score == 1).sum()), int((score != 0.5).sum()))


def measure_length_bias(
    score: FloatArray, left_lengths: FloatArray, right_lengths: FloatArray
) -> Bias:
    """Count how often the longer reply won; pairs of equal length are ignored.

    Args:
        score: shape (votes,), the left side's scores: 1, 0.5 or 0.
        left_lengths: shape (votes,), lengths of the left replies in any unit; nan if unknown.
        right_lengths: the same for the right replies.
    """
    decided = (
        (score != 0.5)
        & np.isfinite(left_lengths)
        & np.isfinite(right_lengths)
        & (left_lengths != right_lengths)
    )
    longer = (score == 1) == (left_lengths > right_lengths)
    return Bias(int((decided & longer).sum()), int(decided.sum()))


def describe_findings(board: Leaderboard, side_bias: Bias, length_bias: Bias) -> Iterator[str]:
    """Yield findings about the ratings and the voters, one line each.

    Args:
        board: the leaderboard.
        side_bias: how often the left side won.
        length_bias: how often the longer reply won.
    """
    rows = board.rows
    if any(not row.is_stable for row in rows):
        yield (
            f"? Not enough votes yet: a rating is stable after {STABLE_AFTER_GAMES} to "
            f"{2 * STABLE_AFTER_GAMES} games."
        )
    close = [(row, below) for row, below in pairwise(rows) if row.votes_needed]
    for row, below in close[:MAX_PAIRS]:
        if row.votes_needed and row.votes_needed <= MAX_VOTES_REPORTED:
            pair = f"{one_line(row.name, 40)} from {one_line(below.name, 40)}"
            noun = "vote" if row.votes_needed == 1 else "votes"
            yield f"About {row.votes_needed:,} more {noun} between them would separate {pair}."
    if board.without_votes:
        yield f"No votes yet: {one_line(', '.join(board.without_votes), 200)}."
    for kind, bias in (("left side", side_bias), ("longer reply", length_bias)):
        if bias.decided >= MIN_DECIDED and bias.rate is not None and (ends := bias.interval):
            verdict = (
                "which is unlikely to be chance" if bias.is_significant else "which may be chance"
            )
            yield (
                f"The {kind} won {bias.rate:.0%} of {bias.decided:,} decided votes "
                f"({ends[0]:.0%} to {ends[1]:.0%}), {verdict}."
            )
