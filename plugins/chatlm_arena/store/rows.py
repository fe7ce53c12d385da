"""Rows of the arena's database as values and back, within somebody else's transaction."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime

from chatlm import Setup, StopReason, UsageError, load_config
from chatlm_arena.contestants import Contestant, is_same_setup
from chatlm_arena.records import SIDES, Ballot, Exchanges, MatchReply, Side

LEFT_SCORE_HALVES = "CASE verdict WHEN 'left' THEN 2 WHEN 'right' THEN 0 ELSE 1 END"
"""What the left side got of a vote, in halves."""


FROM_COUNTED_VOTES = """
    FROM vote JOIN contestant AS l ON l.id = vote.left_id
    JOIN contestant AS r ON r.id = vote.right_id
    WHERE l.gone IS NULL AND r.gone IS NULL AND vote.id NOT IN (SELECT vote_id FROM vote_undone)
    AND (?1 = '' OR vote.judge = ?1)
"""
"""The votes that count: not undone, and both contestants are still there."""


def insert_reply(
    db: sqlite3.Connection, reply: MatchReply, run_id: int | None = None, item: int | None = None
) -> int:
    """Write a reply and return its number."""
    row = db.execute(
        "INSERT INTO reply (contestant_id, run_id, item, turn, prompt, text, stop_reason, made_by,"
        " created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            reply.contestant_id,
            run_id,
            item,
            reply.turn,
            replace_surrogates(reply.prompt),
            replace_surrogates(reply.text),
            reply.stop_reason.value,
            json.dumps(dict(reply.provenance)),
            utc_now(),
        ),
    )
    return row.lastrowid or 0


def insert_match(
    db: sqlite3.Connection, left_id: int, right_id: int, chats: tuple[Exchanges, Exchanges]
) -> int:
    """Write a match that was played elsewhere, with what was said, and return its number."""
    match_id = (
        db.execute(
            "INSERT INTO match (left_id, right_id, created) VALUES (?, ?, ?)",
            (left_id, right_id, utc_now()),
        ).lastrowid
        or 0
    )
    for side, contestant_id, said in zip(SIDES, (left_id, right_id), chats, strict=True):
        for turn, (prompt, text) in enumerate(said):
            reply = MatchReply(contestant_id, turn, prompt, text, StopReason.END)
            insert_seat(db, match_id, side, reply.with_id(insert_reply(db, reply)))
    return match_id


def insert_seat(db: sqlite3.Connection, match_id: int, side: Side, reply: MatchReply) -> None:
    """Let a stored reply stand in a match."""
    db.execute(
        "INSERT OR REPLACE INTO seat VALUES (?, ?, ?, ?)", (match_id, side, reply.turn, reply.id)
    )


def to_reply(row: sqlite3.Row) -> MatchReply:
    """A reply from its row."""
    return MatchReply(
        contestant_id=row["contestant_id"],
        turn=row["turn"],
        prompt=row["prompt"],
        text=row["text"],
        stop_reason=StopReason(row["stop_reason"]),
        provenance=json.loads(row["made_by"]),
        id=row["id"],
    )


def insert_contestant(db: sqlite3.Connection, name: str, setup: Setup | None) -> Contestant:
    """Write a contestant whose name is free."""
    row = db.execute(
        "INSERT INTO contestant (name, setup, created) VALUES (?, ?, ?)",
        (name, _dump_setup(setup), utc_now()),
    )
    return Contestant(row.lastrowid or 0, name, setup)


def update_setup(db: sqlite3.Connection, contestant: Contestant, setup: Setup | None) -> Contestant:
    """Write another set-up of a contestant."""
    db.execute("UPDATE contestant SET setup = ? WHERE id = ?", (_dump_setup(setup), contestant.id))
    return Contestant(contestant.id, contestant.name, setup)


def find_contestant(db: sqlite3.Connection, name: str) -> Contestant | None:
    """The contestant of a name, if there is one."""
    row = db.execute("SELECT * FROM contestant WHERE name = ? AND gone IS NULL", (name,)).fetchone()
    return None if row is None else to_contestant(row)


def get_contestant(db: sqlite3.Connection, name: str) -> Contestant:
    """The contestant of a name; a UsageError where there is none."""
    found = find_contestant(db, name)
    if found is None:
        raise UsageError(
            f"There is no contestant {name!r}.", hint="See them: chatlm arena contestants list"
        )
    return found


def refuse_duplicate_setup(db: sqlite3.Connection, name: str, setup: Setup | None) -> None:
    """Raise a UsageError where a contestant of another name has the very set-up."""
    in_use = load_config().model
    for row in db.execute("SELECT * FROM contestant WHERE gone IS NULL AND name <> ?", (name,)):
        there = to_contestant(row)
        if setup and there.setup and is_same_setup(setup, there.setup, in_use):
            raise UsageError(
                f"{there.name} is that already: {there.description}.",
                hint="Between two that are the same only chance decides. Change something, such as"
                " the temperature.",
            )


def to_contestant(row: sqlite3.Row) -> Contestant:
    """A contestant from its row."""
    setup = row["setup"]
    return Contestant(row["id"], row["name"], setup and Setup.from_dict(json.loads(setup)))


def count_votes(db: sqlite3.Connection, contestant_id: int) -> int:
    """How many votes that count a contestant has."""
    row = db.execute(
        "SELECT count(*)" + FROM_COUNTED_VOTES + " AND ?2 IN (left_id, right_id)",
        ("", contestant_id),
    ).fetchone()
    return int(row[0])


def has_replies_or_votes(db: sqlite3.Connection, contestant_id: int) -> bool:
    """Whether something is kept that a contestant said, or a vote on it."""
    row = db.execute(
        "SELECT EXISTS (SELECT 1 FROM reply WHERE contestant_id = ?1)"
        " OR EXISTS (SELECT 1 FROM vote WHERE ?1 IN (left_id, right_id))",
        (contestant_id,),
    ).fetchone()
    return bool(row[0])


def to_ballot(row: sqlite3.Row) -> Ballot:
    """A vote from its row and both names."""
    return Ballot(row["id"], row["l"], row["r"], row["verdict"], row["judge"], row["match_id"])


def _dump_setup(setup: Setup | None) -> str | None:
    return None if setup is None else json.dumps(setup.to_dict())


def replace_surrogates(text: str) -> str:
    """The text without lone surrogates, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


def utc_now() -> str:
    """The present moment, as it is stored."""
    return datetime.now(UTC).isoformat(timespec="seconds")
