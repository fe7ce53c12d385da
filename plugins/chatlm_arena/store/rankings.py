"""Rankings of several answers at once, stored as the votes of all pairs that they imply."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from itertools import combinations

from chatlm import UsageError
from chatlm_arena.contestants import Contestant
from chatlm_arena.records import MatchReply
from chatlm_arena.store import rows
from chatlm_arena.votes import Verdict

Answers = Sequence[tuple[Contestant, Sequence[MatchReply]]]
"""Contestants with their replies, in the order in which they were shown."""


def insert_ranking(
    db: sqlite3.Connection,
    answers: Answers,
    places: Sequence[int],
    judge: str,
    run_id: int | None,
    item: int | None,
) -> int:
    """Insert a ranking with the matches and votes of all pairs; see `ArenaStore.add_ranking`."""
    if len(answers) < 2 or len(answers) != len(places):
        raise ValueError("a ranking needs a place for each of at least two answers")
    answers = [
        (
            contestant,
            [
                reply if reply.id else reply.with_id(rows.insert_reply(db, reply))
                for reply in replies
            ],
        )
        for contestant, replies in answers
    ]
    now = rows.utc_now()
    stored = {
        contestant.name: place for (contestant, _), place in zip(answers, places, strict=True)
    }
    ranking_id = db.execute(
        "INSERT INTO ranking (judge, places, created) VALUES (?, ?, ?)",
        (judge, json.dumps(stored), now),
    ).lastrowid
    numbered = list(zip(answers, places, strict=True))
    count = 0
    for ((left, left_replies), one), ((right, right_replies), other) in combinations(numbered, 2):
        match_id, swapped = _pair_match(db, left, right, run_id, item)
        if rows.has_vote(db, match_id, judge):
            raise UsageError(
                "Some of these answers already have a vote.",
                hint="Judge the rest in pairs, without --rank.",
            )
        verdict = Verdict.TIE
        if one != other:
            verdict = Verdict.LEFT if (one < other) is not swapped else Verdict.RIGHT
        ends = (right.id, left.id) if swapped else (left.id, right.id)
        sides = (right_replies, left_replies) if swapped else (left_replies, right_replies)
        for reply in sides[0]:
            rows.insert_seat(db, match_id, "left", reply)
        for reply in sides[1]:
            rows.insert_seat(db, match_id, "right", reply)
        db.execute(
            """
            INSERT INTO vote (match_id, left_id, right_id, verdict, judge, created, ranking_id)
            VALUES (?, ?, ?, ?, ?, ?, ?)
            """,
            (match_id, *ends, verdict.value, judge, now, ranking_id),
        )
        count += 1
    return count


def _pair_match(
    db: sqlite3.Connection,
    left: Contestant,
    right: Contestant,
    run_id: int | None,
    item: int | None,
) -> tuple[int, bool]:
    """Return the match of a pair, and whether its sides are those of a tournament, swapped."""
    if (found := rows.find_match(db, left.id, right.id, run_id, item)) is not None:
        return found, False
    if (found := rows.find_match(db, right.id, left.id, run_id, item)) is not None:
        return found, True
    return rows.insert_match(db, left.id, right.id, run_id, item), False
