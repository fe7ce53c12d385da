"""Writing whole chats inside a transaction, new ones and copies; it begins and ends none."""

from __future__ import annotations

import dataclasses
import re
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import count

from chatlm.store.rows import (
    finite,
    from_calls,
    from_details,
    from_kept,
    from_provenance,
    from_sampling,
    from_without,
    maybe,
    stamp,
    storable,
    to_annotation,
)
from chatlm.types.messages import Annotation, Conversation, Passage, Reply, Turn
from chatlm.types.provenance import Provenance, Trace

Label = tuple[int | None, Annotation]
"""A label and the id of the reply it is on, None for the user's message."""


_FORK = re.compile(r"(.*) \(fork(?: \d+)?\)", re.DOTALL)


@dataclass(frozen=True)
class Written:
    """Where a chat stands now."""

    id: int
    turns: dict[int, int]
    """The turns' ids in the values that were written -> those in the database."""
    replies: dict[int, int]
    """The same for the replies."""

    def reply(self, reply: int | None) -> int | None:
        """The id of a reply in the database; None for none."""
        return None if reply is None else self.replies[reply]

    def labels(self, labels: Iterable[Label]) -> list[Label]:
        """Labels on the values, as those on what stands in the database."""
        return [(self.reply(reply), label) for reply, label in labels]

    def traces(self, traces: Iterable[Trace]) -> list[Trace]:
        """The same for what plugins did."""
        return [dataclasses.replace(trace, reply=self.reply(trace.reply)) for trace in traces]


def write(db: sqlite3.Connection, conversation: Conversation) -> Written:
    """Add a chat as it is, but for its ids."""
    row = db.execute(
        "INSERT INTO conversation"
        " (title, system, created, updated, sampling, pinned, forked_from, kept, without)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            storable(conversation.title),
            storable(conversation.system),
            stamp(conversation.created),
            stamp(conversation.updated),
            from_sampling(conversation.sampling),
            conversation.pinned,
            conversation.forked_from,
            from_kept(conversation.kept),
            from_without(conversation.without),
        ),
    )
    written = Written(row.lastrowid or 0, {}, {})
    for position, turn in enumerate(conversation.turns):
        _write_turn(db, written, position, turn)
    return written


def _write_turn(db: sqlite3.Connection, written: Written, position: int, turn: Turn) -> None:
    row = db.execute(
        "INSERT INTO turn (conversation_id, position, content, created, standing, summary, typed)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            written.id,
            position,
            storable(turn.user.content),
            stamp(turn.created),
            turn.standing.value,
            storable(turn.summary),
            storable(turn.typed),
        ),
    )
    turn_id = written.turns[turn.id] = row.lastrowid or 0
    for version, reply in enumerate(turn.replies, start=1):
        written.replies[reply.id] = _write_reply(db, turn_id, version, reply)
    if turn.reply is not None:
        chosen = written.replies[turn.reply.id]
        db.execute("UPDATE turn SET chosen = ? WHERE id = ?", (chosen, turn_id))


def _write_reply(db: sqlite3.Connection, turn_id: int, version: int, reply: Reply) -> int:
    usage = reply.usage
    row = db.execute(
        "INSERT INTO reply (turn_id, version, text, stop_reason, error, model, adapter, settings,"
        " prompt_tokens, cached_tokens, completion_tokens, first_token_seconds, decode_seconds,"
        " created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            turn_id,
            version,
            storable(reply.text),
            reply.stop_reason and reply.stop_reason.value,
            maybe(reply.error),
            storable(reply.model),
            maybe(reply.adapter),
            storable(reply.settings),
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            usage.first_token_seconds,
            usage.decode_seconds,
            stamp(reply.created),
        ),
    )
    return row.lastrowid or 0


def add_passages(db: sqlite3.Connection, turn_id: int, passages: Iterable[Passage]) -> None:
    """Passages of a turn; a score that is not finite is kept as 0."""
    db.executemany(
        "INSERT INTO passage (turn_id, text, source, score, details) VALUES (?, ?, ?, ?, ?)",
        [
            (
                turn_id,
                storable(p.text),
                storable(p.source),
                finite(p.score) or 0.0,
                from_details(p.details),
            )
            for p in passages
        ],
    )


def add_annotations(db: sqlite3.Connection, turn_id: int, labels: Iterable[Label]) -> None:
    """Labels of a turn."""
    db.executemany(
        "INSERT INTO annotation (turn_id, reply_id, plugin, name, value, score, icon)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                turn_id,
                reply_id,
                *map(storable, (label.plugin, label.name, label.value)),
                finite(label.score),
                storable(label.icon),
            )
            for reply_id, label in labels
        ],
    )


def keep_provenance(db: sqlite3.Connection, reply_id: int, provenance: Provenance) -> None:
    """What made a reply, in place of what was kept before."""
    db.execute(
        "INSERT OR REPLACE INTO provenance (reply_id, content) VALUES (?, ?)",
        (reply_id, from_provenance(provenance)),
    )


def add_traces(db: sqlite3.Connection, turn_id: int, traces: Iterable[Trace]) -> None:
    """What plugins did for a turn."""
    _add_traces(db, [(turn_id, trace.reply, from_calls(trace)) for trace in traces])


def copy_belongings(db: sqlite3.Connection, written: Written) -> None:
    """Give a copy the passages, labels, traces and provenance of the chat it was read from."""
    for old, new in written.turns.items():
        db.execute(
            "INSERT INTO passage (turn_id, text, source, score, details)"
            " SELECT ?2, text, source, score, details FROM passage"
            " WHERE turn_id = ?1 ORDER BY id",
            (old, new),
        )
        found = db.execute("SELECT * FROM annotation WHERE turn_id = ? ORDER BY id", (old,))
        add_annotations(db, new, written.labels(map(to_annotation, found)))
        found = db.execute("SELECT * FROM trace WHERE turn_id = ? ORDER BY rowid", (old,))
        _add_traces(db, [(new, written.reply(row["reply_id"]), row["content"]) for row in found])
    db.executemany(
        "INSERT INTO provenance (reply_id, content)"
        " SELECT ?2, content FROM provenance WHERE reply_id = ?1",
        written.replies.items(),
    )


def _add_traces(db: sqlite3.Connection, rows: Iterable[tuple[int, int | None, bytes]]) -> None:
    db.executemany("INSERT INTO trace (turn_id, reply_id, content) VALUES (?, ?, ?)", rows)


def fork_title(title: str, taken: Collection[str]) -> str:
    """What a copy is called: `Title (fork)`, and `Title (fork 2)` for a further one or its own."""
    match = _FORK.fullmatch(title)
    stem = match[1] if match else title
    names = (f"{stem} (fork)" if number == 1 else f"{stem} (fork {number})" for number in count(1))
    return next(name for name in names if name not in taken)
