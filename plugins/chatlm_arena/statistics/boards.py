"""Boards beside the plain one: ties modelled, style controlled, one per topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chatlm_arena.ratings import MIN_GAMES
from chatlm_arena.records import VoteFacts
from chatlm_arena.statistics.preference_model import (
    PreferenceFit,
    Ties,
    comparisons_from_votes,
    fit_preferences,
)
from chatlm_arena.statistics.style import (
    Style,
    StyleEffect,
    control_style,
    measure_style,
    style_differences,
)
from chatlm_arena.votes import IntArray, Votes, games_played, tally_votes, votes_between

MIN_TOPIC_VOTES = 20
"""Votes of a topic below which it gets no board."""


@dataclass(frozen=True)
class BoardRow:
    """A contestant's rating in a model of the votes."""

    name: str
    rating: float
    low: float
    high: float
    """Ends of the 95 % interval; infinite with too few games."""
    games: int
    place: int
    plain_place: int
    """Its place by half-wins, on the same votes and without style control."""

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values, ready for JSON; unknown ends are None."""
        known = abs(self.low) < 1e9
        return {
            "name": self.name,
            "rating": self.rating,
            "low": self.low if known else None,
            "high": self.high if known else None,
            "games": self.games,
            "place": self.place,
            "plain_place": self.plain_place,
        }


@dataclass(frozen=True)
class Board:
    """Ratings by a model of the votes."""

    ties: Ties
    rows: tuple[BoardRow, ...]
    """Strongest first."""
    votes: int
    left_out: int
    """Votes without the replies' texts, which style control cannot use."""
    tie_share: float
    """Share of ties among the votes."""
    even_tie_chance: float | None
    """Chance of a tie between equals; None with half-wins."""
    effects: tuple[StyleEffect, ...] = ()
    """Effects of style, largest first; empty without style control."""
    same_style: tuple[str, ...] = ()
    """Parts of style that hardly differ in these votes, so that their effect is unknown."""
    confounded: tuple[str, ...] = ()
    """Parts of style that cannot be told from the contestants; see `StyleControl`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the board as plain values, ready for JSON."""
        return {
            "ties": self.ties.value,
            "votes": self.votes,
            "left_out": self.left_out,
            "tie_share": self.tie_share,
            "even_tie_chance": self.even_tie_chance,
            "effects": [effect.to_dict() for effect in self.effects],
            "same_style": list(self.same_style),
            "confounded": list(self.confounded),
            "rows": [row.to_dict() for row in self.rows],
        }


def build_board(
    votes: Votes,
    facts: Sequence[VoteFacts],
    ties: Ties = Ties.DAVIDSON,
    *,
    with_style: bool = False,
) -> Board:
    """Rate the contestants that have votes.

    Args:
        votes: the votes.
        facts: the same votes' texts and rankings, in the same order.
        ties: how ties enter.
        with_style: whether style is controlled; then only votes on replies with texts count.
    """
    used = np.arange(len(votes))
    if with_style:
        used = np.array(
            [at for at, fact in enumerate(facts) if fact.characters is not None], dtype=np.int64
        )
    chosen = select_votes(votes, used)
    kept = [facts[at] for at in used.tolist()]
    cluster = vote_clusters(kept)
    plain = fit_preferences(comparisons_from_votes(chosen, cluster=cluster), Ties.HALF_WINS)
    effects: tuple[StyleEffect, ...] = ()
    same: tuple[str, ...] = ()
    confounded: tuple[str, ...] = ()
    if with_style:
        control = control_style(chosen, differences_of(kept), ties, cluster)
        fit, effects = control.fit, control.effects
        same, confounded = control.left_out, control.confounded
    else:
        fit = fit_preferences(comparisons_from_votes(chosen, cluster=cluster), ties)
    return Board(
        ties,
        _rows(chosen, fit, plain),
        len(chosen),
        len(votes) - len(chosen),
        float((chosen.score == 0.5).mean()) if len(chosen) else 0.0,
        None if ties is Ties.HALF_WINS else float(fit.outcome_chances(np.zeros(1))[1][0]),
        effects,
        same,
        confounded,
    )


def build_topic_boards(
    votes: Votes, facts: Sequence[VoteFacts], topics: Mapping[str, Sequence[int]]
) -> dict[str, Board | None]:
    """Rate the contestants on each topic, with ties modelled.

    Args:
        votes: the votes.
        facts: as for `build_board`.
        topics: the ids of each topic's matches.

    Returns:
        A board by topic, those with the most votes first; None with fewer than `MIN_TOPIC_VOTES`.
    """
    boards: dict[str, tuple[int, Board | None]] = {}
    for topic, matches in topics.items():
        wanted = set(matches)
        used = np.array(
            [at for at, fact in enumerate(facts) if fact.match_id in wanted], dtype=np.int64
        )
        board = None
        if len(used) >= MIN_TOPIC_VOTES:
            board = build_board(select_votes(votes, used), [facts[at] for at in used.tolist()])
        boards[topic] = (len(used), board)
    ordered = sorted(boards.items(), key=lambda item: -item[1][0])
    return {topic: board for topic, (_, board) in ordered}


def select_votes(votes: Votes, at: IntArray) -> Votes:
    """Return some of the votes, and only the contestants that they are about."""
    chosen = Votes(votes.names, votes.left[at], votes.right[at], votes.score[at])
    present = np.unique(np.concatenate([chosen.left, chosen.right]))
    return votes_between(chosen, [votes.names[index] for index in present.tolist()])


def vote_clusters(facts: Sequence[VoteFacts]) -> IntArray | None:
    """Return a number for each vote that those of one ranking share; None without rankings."""
    if all(fact.ranking_id is None for fact in facts):
        return None
    alone = iter(range(-1, -len(facts) - 1, -1))
    numbers = [next(alone) if fact.ranking_id is None else fact.ranking_id for fact in facts]
    return np.array(numbers, dtype=np.int64)


def differences_of(facts: Sequence[VoteFacts]) -> Any:
    """Return the differences of style of votes with texts, as `style_differences`."""
    known: dict[str, Style] = {}

    def style(text: str | None) -> Style:
        if text not in known:
            known[text or ""] = measure_style(text or "")
        return known[text or ""]

    return style_differences(
        [style(fact.left_text) for fact in facts], [style(fact.right_text) for fact in facts]
    )


def _rows(votes: Votes, fit: PreferenceFit, plain: PreferenceFit) -> tuple[BoardRow, ...]:
    games = games_played(tally_votes(votes))
    low, high = fit.rating_interval
    order = np.argsort(-fit.log_strength, kind="stable").tolist()
    before = np.argsort(-plain.log_strength, kind="stable").tolist()
    return tuple(
        BoardRow(
            votes.names[at],
            float(fit.rating[at]),
            float(low[at]) if games[at] >= MIN_GAMES else -np.inf,
            float(high[at]) if games[at] >= MIN_GAMES else np.inf,
            int(games[at]),
            place,
            before.index(at) + 1,
        )
        for place, at in enumerate(order, 1)
    )
