"""Queries for statistics: what is known about votes, replies, judges and ratings of answers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from chatlm_arena.records import HUMAN, AspectRating, VoteFacts
from chatlm_arena.store.rows import FROM_COUNTED_VOTES, IN_MATCHES, LEFT_SCORE_HALVES

_SIDE_TEXT = """
    (SELECT group_concat(said, char(10, 10)) FROM (
        SELECT reply.text AS said FROM seat JOIN reply ON reply.id = seat.reply_id
        WHERE seat.match_id = vote.match_id AND seat.side = '{}' ORDER BY seat.turn))
"""


def select_vote_facts(db: sqlite3.Connection, judge: str, match_ids: str | None) -> list[VoteFacts]:
    """Return what is known about the votes that count, oldest first.

    Args:
        db: the database.
        judge: only this judge's votes; empty for all.
        match_ids: as for `IN_MATCHES`.
    """
    cursor = db.execute(
        f"""
        SELECT vote.left_id, vote.right_id, vote.judge, vote.created, vote.import_id IS NOT NULL,
            vote.match_id, vote.ranking_id,
            (SELECT reply.prompt FROM seat JOIN reply ON reply.id = seat.reply_id
             WHERE seat.match_id = vote.match_id AND seat.turn = 0 LIMIT 1),
            {_SIDE_TEXT.format("left")}, {_SIDE_TEXT.format("right")}
        {FROM_COUNTED_VOTES} {IN_MATCHES} ORDER BY vote.id
        """,  # noqa: S608
        (judge, match_ids),
    )
    return [
        VoteFacts(
            left, right, voter, datetime.fromisoformat(created), bool(imported), match_id,
            ranking_id, prompt, one, other,
        )
        for left, right, voter, created, imported, match_id, ranking_id, prompt, one, other in
        cursor
    ]  # fmt: skip


class JudgedMatch(NamedTuple):
    """The verdicts on one match."""

    match_id: int
    left: str
    """Name of the contestant on the left."""
    right: str
    scores: Mapping[str, float]
    """The left side's score by judge."""


def select_judged_matches(db: sqlite3.Connection) -> list[JudgedMatch]:
    """Return the verdicts that count on each match, oldest match first."""
    cursor = db.execute(
        f"""
        SELECT vote.match_id, l.name, r.name, vote.judge, {LEFT_SCORE_HALVES} / 2.0
        {FROM_COUNTED_VOTES} AND vote.match_id IS NOT NULL ORDER BY vote.match_id, vote.id
        """,
        ("",),
    )
    found: dict[int, tuple[str, str, dict[str, float]]] = {}
    for match_id, left, right, judge, score in cursor:
        found.setdefault(match_id, (left, right, {}))[2][judge] = score
    return [JudgedMatch(match_id, *values) for match_id, values in found.items()]


class OrderCounts(NamedTuple):
    """How often a judge's verdict held in both orders."""

    both: int
    """Matches with a verdict in both orders."""
    same: int
    """Those with the same verdict in both."""
    undecided: int
    """Matches with a verdict in one order or none."""
    first_wins: int
    """Decided verdicts for the answer that was read first."""
    decided: int
    """Verdicts that are not ties."""


def select_order_counts(db: sqlite3.Connection) -> dict[str, OrderCounts]:
    """Return how each model's verdicts depend on the order of the answers."""
    verdicts: dict[tuple[str, int], dict[bool, str | None]] = {}
    for judge, match_id, turned, verdict in db.execute(
        "SELECT judge, match_id, turned, verdict FROM judgement ORDER BY id"
    ):
        by_order = verdicts.setdefault((judge, match_id), {})
        by_order[bool(turned)] = verdict or by_order.get(bool(turned))
    found: dict[str, list[int]] = {}
    for (judge, _), by_order in verdicts.items():
        counts = found.setdefault(judge, [0, 0, 0, 0, 0])
        first, second = by_order.get(False), by_order.get(True)
        if first and second:
            counts[0] += 1
            counts[1] += first == second
        else:
            counts[2] += 1
        for verdict, read_first in ((first, "left"), (second, "right")):
            if verdict in ("left", "right"):
                counts[3] += verdict == read_first
                counts[4] += 1
    return {judge: OrderCounts(*counts) for judge, counts in found.items()}


def select_reply_times(db: sqlite3.Connection) -> list[tuple[str, float, int | None]]:
    """Return contestant, seconds and tokens of each reply whose time is known."""
    rows = []
    for name, made_by in db.execute(
        """
        SELECT contestant.name, reply.made_by FROM reply
        JOIN contestant ON contestant.id = reply.contestant_id
        WHERE contestant.gone IS NULL AND reply.stop_reason != 'error' ORDER BY reply.id
        """
    ):
        values = json.loads(made_by)
        first, rest = values.get("first_token_seconds"), values.get("decode_seconds")
        tokens = values.get("completion_tokens")
        if isinstance(first, float) and isinstance(rest, float):
            rows.append((name, first + rest, tokens if isinstance(tokens, int) else None))
    return rows


def select_aspect_ratings(db: sqlite3.Connection) -> list[AspectRating]:
    """Return all ratings of answers that have a value, oldest first."""
    cursor = db.execute(
        """
        SELECT mark.reply_id, contestant.name, mark.judge, mark.criterion, mark.value FROM mark
        JOIN reply ON reply.id = mark.reply_id
        JOIN contestant ON contestant.id = reply.contestant_id
        WHERE contestant.gone IS NULL AND mark.value IS NOT NULL ORDER BY mark.id
        """
    )
    return [AspectRating(*row) for row in cursor]


def select_last_replies(db: sqlite3.Connection) -> list[tuple[int, int, float]]:
    """Return the last left and the last right reply of each vote's match, and the left score."""
    last = """(SELECT reply_id FROM seat WHERE seat.match_id = vote.match_id AND seat.side = '{}'
               ORDER BY seat.turn DESC LIMIT 1)"""
    cursor = db.execute(
        f"""
        SELECT {last.format("left")}, {last.format("right")}, {LEFT_SCORE_HALVES} / 2.0
        {FROM_COUNTED_VOTES} AND vote.match_id IS NOT NULL
        """,
        ("",),
    )
    return [(one, other, score) for one, other, score in cursor if one and other]


def select_unjudged_matches(db: sqlite3.Connection, judge: str, voted_by: str) -> list[int]:
    """Return matches with replies that a judge has not judged, oldest first.

    Args:
        db: the database.
        judge: the judge.
        voted_by: only matches with a vote of this judge; empty for all.
    """
    cursor = db.execute(
        """
        SELECT match.id FROM match
        JOIN contestant AS l ON l.id = match.left_id JOIN contestant AS r ON r.id = match.right_id
        WHERE l.gone IS NULL AND r.gone IS NULL
        AND EXISTS (SELECT 1 FROM seat WHERE match_id = match.id AND side = 'left')
        AND EXISTS (SELECT 1 FROM seat WHERE match_id = match.id AND side = 'right')
        AND NOT EXISTS (SELECT 1 FROM vote WHERE match_id = match.id AND judge = ?1
                        AND id NOT IN (SELECT vote_id FROM vote_undone))
        AND (?2 = '' OR EXISTS (SELECT 1 FROM vote WHERE match_id = match.id AND judge = ?2
                                AND id NOT IN (SELECT vote_id FROM vote_undone)))
        ORDER BY match.id
        """,
        (judge, voted_by),
    )
    return [int(row[0]) for row in cursor]


def count_votes_by_judge(db: sqlite3.Connection) -> dict[str, int]:
    """Return the number of votes that count by judge, the user first, then the most votes."""
    cursor = db.execute(
        f"SELECT vote.judge, count(*) {FROM_COUNTED_VOTES} GROUP BY vote.judge ORDER BY 2 DESC",
        ("",),
    )
    counts = {judge: int(count) for judge, count in cursor}
    first: Sequence[str] = [HUMAN] if HUMAN in counts else []
    return {judge: counts[judge] for judge in (*first, *(j for j in counts if j != HUMAN))}
