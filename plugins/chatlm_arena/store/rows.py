"""Values to and from rows of the arena's database, and the queries that several methods share."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from chatlm import Image, PreparedImage, Setup, StopReason, UsageError, load_config
from chatlm_arena.contestants import Contestant, is_same_setup
from chatlm_arena.golden import GoldenChat
from chatlm_arena.records import SIDES, Ballot, Exchanges, Judgement, Match, MatchReply, Side
from chatlm_arena.votes import Verdict

LEFT_SCORE_HALVES = "CASE verdict WHEN 'left' THEN 2 WHEN 'right' THEN 0 ELSE 1 END"
"""The left side's score, doubled so that votes are read as integers."""

REPLY_LENGTHS = """
    (SELECT sum(length(reply.text)) FROM seat JOIN reply ON reply.id = seat.reply_id
     WHERE seat.match_id = vote.match_id AND seat.side = 'left'),
    (SELECT sum(length(reply.text)) FROM seat JOIN reply ON reply.id = seat.reply_id
     WHERE seat.match_id = vote.match_id AND seat.side = 'right')
"""
"""Columns of a vote: the number of characters in the left and in the right replies."""

SELECT_BALLOTS = "SELECT vote.*, l.name AS left_name, r.name AS right_name"

FROM_COUNTED_VOTES = """
    FROM vote
    JOIN contestant AS l ON l.id = vote.left_id
    JOIN contestant AS r ON r.id = vote.right_id
    WHERE l.gone IS NULL AND r.gone IS NULL
    AND vote.id NOT IN (SELECT vote_id FROM vote_undone)
    AND (?1 = '' OR vote.judge = ?1)
"""
"""The votes that count: neither undone nor for a removed contestant. Parameter 1 is the judge, or
empty for all."""

IN_MATCHES = "AND (?2 IS NULL OR match_id IN (SELECT value FROM json_each(?2)))"
"""Limits the votes that count to some matches. Parameter 2 is a JSON list of ids, or NULL for no
limit."""


# Contestants


def select_contestants(db: sqlite3.Connection) -> list[Contestant]:
    """Return all contestants, oldest first."""
    cursor = db.execute("SELECT * FROM contestant WHERE gone IS NULL ORDER BY id")
    return [to_contestant(row) for row in cursor]


def find_contestant(db: sqlite3.Connection, name: str) -> Contestant | None:
    """Return the contestant of a name, if there is one."""
    row = db.execute("SELECT * FROM contestant WHERE name = ? AND gone IS NULL", (name,)).fetchone()
    return None if row is None else to_contestant(row)


def get_contestant(db: sqlite3.Connection, name: str) -> Contestant:
    """Return the contestant of a name.

    Raises:
        UsageError: there is none.
    """
    contestant = find_contestant(db, name)
    if contestant is None:
        raise UsageError(
            f"There is no contestant {name!r}.", hint="List them: chatlm arena contestants list"
        )
    return contestant


def insert_contestant(db: sqlite3.Connection, name: str, setup: Setup | None) -> Contestant:
    """Insert a contestant whose name is free."""
    cursor = db.execute(
        "INSERT INTO contestant (name, setup, created) VALUES (?, ?, ?)",
        (name, _dump_setup(setup), utc_now()),
    )
    return Contestant(cursor.lastrowid or 0, name, setup)


def update_setup(db: sqlite3.Connection, contestant: Contestant, setup: Setup | None) -> Contestant:
    """Change a contestant's set-up in place."""
    db.execute("UPDATE contestant SET setup = ? WHERE id = ?", (_dump_setup(setup), contestant.id))
    return Contestant(contestant.id, contestant.name, setup)


def retire_contestant(db: sqlite3.Connection, contestant_id: int) -> None:
    """Mark a contestant as removed; its replies and votes stay in the database."""
    db.execute("UPDATE contestant SET gone = ? WHERE id = ?", (utc_now(), contestant_id))


def refuse_duplicate_setup(db: sqlite3.Connection, name: str, setup: Setup | None) -> None:
    """Raise a `UsageError` if a contestant of another name has the same set-up."""
    if setup is None:
        return
    default_model = load_config().model
    for other in select_contestants(db):
        if other.name == name or other.setup is None:
            continue
        if is_same_setup(setup, other.setup, default_model):
            raise UsageError(
                f"{other.name} already has this set-up: {other.description}.",
                hint="Between two identical set-ups only chance decides. Change something, such as"
                " the temperature.",
            )


def count_votes(db: sqlite3.Connection, contestant_id: int) -> int:
    """Return the number of a contestant's votes that count."""
    row = db.execute(
        f"SELECT count(*) {FROM_COUNTED_VOTES} AND ?2 IN (left_id, right_id)", ("", contestant_id)
    ).fetchone()
    return int(row[0])


def has_replies_or_votes(db: sqlite3.Connection, contestant_id: int) -> bool:
    """Return whether the database has replies of a contestant or votes on it."""
    row = db.execute(
        """
        SELECT EXISTS (SELECT 1 FROM reply WHERE contestant_id = ?1)
            OR EXISTS (SELECT 1 FROM vote WHERE ?1 IN (left_id, right_id))
        """,
        (contestant_id,),
    ).fetchone()
    return bool(row[0])


def to_contestant(row: sqlite3.Row) -> Contestant:
    """Convert a row of `contestant`."""
    setup = row["setup"]
    return Contestant(row["id"], row["name"], setup and Setup.from_dict(json.loads(setup)))


def _dump_setup(setup: Setup | None) -> str | None:
    return None if setup is None else json.dumps(setup.to_dict())


# Matches and replies


def find_match(
    db: sqlite3.Connection, left_id: int, right_id: int, run_id: int | None, item: int | None
) -> int | None:
    """Return the id of a tournament's match, if there is one; None outside tournaments."""
    row = db.execute(
        "SELECT id FROM match WHERE left_id = ? AND right_id = ? AND run_id = ? AND item = ?",
        (left_id, right_id, run_id, item),
    ).fetchone()
    return None if row is None else int(row["id"])


def get_match(db: sqlite3.Connection, match_id: int) -> Match:
    """Return a match with its replies.

    Raises:
        UsageError: there is none with this id.
    """
    row = db.execute("SELECT left_id, right_id FROM match WHERE id = ?", (match_id,)).fetchone()
    if row is None:
        raise UsageError(f"There is no match {match_id}.")
    left, right = (
        # a match also shows contestants that were removed since
        to_contestant(db.execute("SELECT * FROM contestant WHERE id = ?", (id_,)).fetchone())
        for id_ in row
    )
    replies: dict[str, list[MatchReply]] = {side: [] for side in SIDES}
    for seat in db.execute(
        """
        SELECT seat.side, reply.* FROM seat JOIN reply ON reply.id = seat.reply_id
        WHERE seat.match_id = ? ORDER BY seat.turn
        """,
        (match_id,),
    ):
        replies[seat["side"]].append(to_reply(seat))
    return Match(match_id, left, right, tuple(replies["left"]), tuple(replies["right"]))


def insert_match(
    db: sqlite3.Connection,
    left_id: int,
    right_id: int,
    run_id: int | None = None,
    item: int | None = None,
) -> int:
    """Insert a match without replies and return its id."""
    cursor = db.execute(
        "INSERT INTO match (left_id, right_id, run_id, item, created) VALUES (?, ?, ?, ?, ?)",
        (left_id, right_id, run_id, item, utc_now()),
    )
    return cursor.lastrowid or 0


def insert_imported_match(
    db: sqlite3.Connection, left_id: int, right_id: int, chats: tuple[Exchanges, Exchanges]
) -> int:
    """Insert a match that was played elsewhere, with both chats, and return its id."""
    match_id = insert_match(db, left_id, right_id)
    for side, contestant_id, exchanges in zip(SIDES, (left_id, right_id), chats, strict=True):
        for turn, (prompt, text) in enumerate(exchanges):
            reply = MatchReply(contestant_id, turn, prompt, text, StopReason.END)
            insert_seat(db, match_id, side, reply.with_id(insert_reply(db, reply)))
    return match_id


def insert_seat(db: sqlite3.Connection, match_id: int, side: Side, reply: MatchReply) -> None:
    """Link a stored reply to one side of a match, in place of an earlier one of the same turn."""
    db.execute(
        "INSERT OR REPLACE INTO seat (match_id, side, turn, reply_id) VALUES (?, ?, ?, ?)",
        (match_id, side, reply.turn, reply.id),
    )


def insert_reply(
    db: sqlite3.Connection, reply: MatchReply, run_id: int | None = None, item: int | None = None
) -> int:
    """Insert a reply and return its id."""
    cursor = db.execute(
        """
        INSERT INTO reply
            (contestant_id, run_id, item, turn, prompt, text, stop_reason, made_by, created, images)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        """,
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
            json.dumps([image.to_dict() for image in reply.images]) if reply.images else None,
        ),
    )
    return cursor.lastrowid or 0


def to_reply(row: sqlite3.Row) -> MatchReply:
    """Convert a row of `reply`."""
    return MatchReply(
        contestant_id=row["contestant_id"],
        turn=row["turn"],
        prompt=row["prompt"],
        text=row["text"],
        stop_reason=StopReason(row["stop_reason"]),
        provenance=json.loads(row["made_by"]),
        id=row["id"],
        images=tuple(map(_to_image, json.loads(row["images"] or "[]"))),
    )


def _to_image(values: Mapping[str, Any]) -> Image:
    return Image(**{name: value for name, value in values.items() if name != "type"})


def insert_images(db: sqlite3.Connection, images: Iterable[PreparedImage]) -> None:
    """Store the bytes of images, each once."""
    db.executemany(
        "INSERT OR IGNORE INTO image (sha256, content) VALUES (?, ?)",
        [(each.image.sha256, each.content) for each in images],
    )


# Votes


def has_vote(db: sqlite3.Connection, match_id: int, judge: str) -> bool:
    """Return whether a judge has a vote on a match that is not undone."""
    row = db.execute(
        """
        SELECT 1 FROM vote WHERE match_id = ? AND judge = ?
        AND id NOT IN (SELECT vote_id FROM vote_undone)
        """,
        (match_id, judge),
    ).fetchone()
    return row is not None


def to_ballot(row: sqlite3.Row) -> Ballot:
    """Convert a row of `SELECT_BALLOTS`."""
    return Ballot(
        id=row["id"],
        left=row["left_name"],
        right=row["right_name"],
        verdict=row["verdict"],
        judge=row["judge"],
        match_id=row["match_id"],
    )


# Judgements and golden chats


def insert_judgements(
    db: sqlite3.Connection, match_id: int, judge: str, judgements: Sequence[Judgement]
) -> None:
    """Insert a judge's attempts at a verdict on a match, except those that are there."""
    db.executemany(
        """
        INSERT OR IGNORE INTO judgement
            (match_id, judge, turned, attempt, said, verdict, created)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        """,
        [
            (
                match_id,
                judge,
                judgement.swapped,
                judgement.attempt,
                replace_surrogates(judgement.text),
                judgement.verdict.value if judgement.verdict else None,
                utc_now(),
            )
            for judgement in judgements
        ],
    )


def to_judgement(row: sqlite3.Row) -> Judgement:
    """Convert a row of `judgement`."""
    return Judgement(
        swapped=bool(row["turned"]),
        attempt=row["attempt"],
        text=row["said"],
        verdict=Verdict(row["verdict"]) if row["verdict"] else None,
    )


def insert_golden(db: sqlite3.Connection, golden: GoldenChat) -> None:
    """Insert a golden chat whose name is free."""
    db.execute(
        "INSERT INTO golden (name, messages, expected, seed, created) VALUES (?, ?, ?, ?, ?)",
        (
            golden.name,
            json.dumps(golden.to_dict()["messages"]),
            replace_surrogates(golden.expected),
            golden.seed,
            utc_now(),
        ),
    )


def to_golden(row: sqlite3.Row) -> GoldenChat:
    """Convert a row of `golden`."""
    return GoldenChat.from_dict({**dict(row), "messages": json.loads(row["messages"])})


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, with question marks."""
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


def utc_now() -> str:
    """Return the current time as it is stored."""
    return datetime.now(UTC).isoformat(timespec="seconds")
