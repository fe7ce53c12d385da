"""Rows, biases, plain-language findings."""

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
"""Games after which a rating begins to be steady (2.6.3 says 100 to 200)."""


@dataclass(frozen=True)
class LeaderboardRow:
    """One contestant."""

    name: str
    elo: float
    bradley_terry: float
    """Its strength; those of all sum to 1."""
    low: float
    """End of the 95 % interval of `bradley_terry`."""
    high: float
    rating: float
    """The strength on Elo's scale; 1500 is the mean."""
    rating_low: float
    rating_high: float
    games: int
    win_rate: float
    """Won games and half the ties, of all games."""
    votes_needed: int | None = None
    """Votes that would likely separate it from the next in rank; 0 where they are apart, None
    where that is unknown or it is the last."""

    @property
    def is_stable(self) -> bool:
        """Whether it has votes enough."""
        return self.games >= STABLE_AFTER_GAMES

    def to_dict(self) -> dict[str, str | float | int]:
        """What `chatlm arena leaderboard --json` prints of it."""
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
    """What votes say of all contestants that have some."""

    votes: Votes
    """Whose names are those that have votes."""
    elo_rules: EloRules
    estimate: BradleyTerryEstimate
    without_votes: tuple[str, ...] = ()
    """The others."""

    @cached_property
    def rows(self) -> tuple[LeaderboardRow, ...]:
        """The strongest first."""
        votes, found = self.votes, self.estimate
        elos = elo_ratings(votes, self.elo_rules)
        won, games = self.win_matrix, self.win_matrix + self.win_matrix.T
        order = np.lexsort((np.arange(len(votes.names)), -found.strength))
        rows = []
        for place, at in enumerate(order.tolist()):
            below = order[place + 1] if place + 1 < len(order) else None
            count = int(games[at].sum())
            row = LeaderboardRow(
                name=votes.names[at],
                elo=float(elos[at]),
                bradley_terry=float(found.strength[at]),
                low=float(found.strength_low[at]),
                high=float(found.strength_high[at]),
                rating=float(found.rating[at]),
                rating_low=float(found.rating_low[at]),
                rating_high=float(found.rating_high[at]),
                games=count,
                win_rate=float(won[at].sum() / count),
                votes_needed=None if below is None else votes_to_separate(found, at, int(below)),
            )
            rows.append(row)
        return tuple(rows)

    @cached_property
    def win_matrix(self) -> FloatArray:
        """Shape (contestants, contestants), in the order of the votes' names: what the row got
        from the column."""
        return win_matrix(tally_votes(self.votes))


def build_leaderboard(votes: Votes, elo_rules: EloRules | None = None) -> Leaderboard:
    """Rate all contestants from their votes, of which the order counts for Elo alone."""
    seen = np.unique(np.concatenate([votes.left, votes.right]))
    played = votes_between(votes, [votes.names[at] for at in seen.tolist()])
    unseen = tuple(name for name in votes.names if name not in set(played.names))
    return Leaderboard(
        played, elo_rules or EloRules(), estimate_strengths(tally_votes(played)), unseen
    )


@dataclass(frozen=True)
class Bias:
    """How often one kind of reply won, of the votes that were no ties."""

    wins: int
    decided: int

    @property
    def rate(self) -> float | None:
        """0.5 is fair; None without votes."""
        return self.wins / self.decided if self.decided else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of `rate`."""
        if not self.decided:
            return None
        rate, n, z = self.wins / self.decided, self.decided, Z_95
        middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * ((rate * (1 - rate) + z * z / (4 * n)) / n) ** 0.5
        return middle - half, middle + half

    @property
    def is_significant(self) -> bool:
        """Whether chance alone hardly explains it."""
        ends = self.interval
        return ends is not None and not ends[0] <= 0.5 <= ends[1]


def measure_side_bias(score: FloatArray) -> Bias:
    """How often the left side won.

    Args:
        score: shape (votes,), what the left side got: 1, 0.5 or 0.
    """
    return Bias(int((score == 1).sum()), int((score != 0.5).sum()))


def measure_length_bias(
    score: FloatArray, left_lengths: FloatArray, right_lengths: FloatArray
) -> Bias:
    """How often the longer reply won; replies of one length tell nothing.

    Args:
        score: shape (votes,), what the left side got: 1, 0.5 or 0.
        left_lengths: lengths of the left replies, in any unit; nan where there is none.
        right_lengths: those of the right replies.
    """
    decided = (
        (score != 0.5)
        & np.isfinite(left_lengths)
        & np.isfinite(right_lengths)
        & (left_lengths != right_lengths)
    )
    longer = (score == 1) == (left_lengths > right_lengths)
    return Bias(int((decided & longer).sum()), int(decided.sum()))


MAX_VOTES_REPORTED = 100_000
"""More are not worth telling."""


MAX_PAIRS = 5
"""So many pairs, the strongest, are told about."""


MIN_DECIDED = 20
"""Votes below which nothing is said about what may have swayed them."""


def describe_findings(board: Leaderboard, side_bias: Bias, length_bias: Bias) -> Iterator[str]:
    """Each a line.

    Args:
        board: the leaderboard.
        side_bias: how often the left side won.
        length_bias: how often the longer reply won.
    """
    rows = board.rows
    if any(not row.is_stable for row in rows):
        yield (
            f"? Not enough votes yet: a rating is steady after {STABLE_AFTER_GAMES} to "
            f"{2 * STABLE_AFTER_GAMES} games."
        )
    close = [(row, below) for row, below in pairwise(rows) if row.votes_needed]
    for row, below in close[:MAX_PAIRS]:
        if row.votes_needed and row.votes_needed <= MAX_VOTES_REPORTED:
            pair = f"{one_line(row.name, 40)} from {one_line(below.name, 40)}"
            what = "vote" if row.votes_needed == 1 else "votes"
            yield f"About {row.votes_needed:,} more {what} between them would separate {pair}."
    if board.without_votes:
        yield f"Without a vote yet: {one_line(', '.join(board.without_votes), 200)}."
    for what, bias in (("left side", side_bias), ("longer reply", length_bias)):
        if bias.decided >= MIN_DECIDED and bias.rate is not None and (ends := bias.interval):
            verdict = (
                "which chance hardly explains" if bias.is_significant else "which may be chance"
            )
            yield (
                f"The {what} won {bias.rate:.0%} of {bias.decided:,} decided votes "
                f"({ends[0]:.0%} to {ends[1]:.0%}), {verdict}."
            )
