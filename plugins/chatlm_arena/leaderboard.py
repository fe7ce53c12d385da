"""The leaderboard: what the votes say of each contestant, and how sure it is; pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from chatlm_arena.elo import EloRules, elo
from chatlm_arena.pairing import votes_to_separate
from chatlm_arena.strength import Strengths, estimate
from chatlm_arena.votes import Numbers, Votes, among, tally, wins

STABLE = 100
"""Games after which a rating begins to be steady (2.6.3 says 100 to 200)."""


@dataclass(frozen=True)
class Row:
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
    more: int | None = None
    """Votes that would likely separate it from the next in rank; 0 where they are apart, None
    where that is unknown or it is the last."""

    @property
    def is_steady(self) -> bool:
        """Whether it has votes enough."""
        return self.games >= STABLE

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
    rules: EloRules
    found: Strengths
    unseen: tuple[str, ...] = ()
    """The others."""

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The strongest first."""
        votes, found = self.votes, self.found
        elos = elo(votes, self.rules)
        won, games = self.wins, self.wins + self.wins.T
        order = np.lexsort((np.arange(len(votes.names)), -found.share))
        rows = []
        for place, at in enumerate(order.tolist()):
            below = order[place + 1] if place + 1 < len(order) else None
            count = int(games[at].sum())
            row = Row(
                name=votes.names[at],
                elo=float(elos[at]),
                bradley_terry=float(found.share[at]),
                low=float(found.share_low[at]),
                high=float(found.share_high[at]),
                rating=float(found.rating[at]),
                rating_low=float(found.rating_low[at]),
                rating_high=float(found.rating_high[at]),
                games=count,
                win_rate=float(won[at].sum() / count),
                more=None if below is None else votes_to_separate(found, at, int(below)),
            )
            rows.append(row)
        return tuple(rows)

    @cached_property
    def wins(self) -> Numbers:
        """Shape (contestants, contestants), in the order of the votes' names: what the row got
        from the column."""
        return wins(tally(self.votes))


def leaderboard(votes: Votes, rules: EloRules | None = None) -> Leaderboard:
    """Rate all contestants from their votes, of which the order counts for Elo alone."""
    seen = np.unique(np.concatenate([votes.left, votes.right]))
    played = among(votes, [votes.names[at] for at in seen.tolist()])
    unseen = tuple(name for name in votes.names if name not in set(played.names))
    return Leaderboard(played, rules or EloRules(), estimate(tally(played)), unseen)
