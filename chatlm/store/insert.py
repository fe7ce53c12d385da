"""Writing whole chats inside a transaction, new ones and copies; it begins and ends none."""

from __future__ import annotations

import dataclasses
import re
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import count

from chatlm.store.rows import (
    annotation_from_row,
    dump_calls,
    dump_details,
    dump_plugin_data,
    dump_plugin_names,
    dump_provenance,
    dump_sampling,
    finite_or_none,
    format_timestamp,
    utf8_safe,
    utf8_safe_or_none,
)
from chatlm.types.messages import Annotation, Conversation, Passage, Reply, Turn
from chatlm.types.provenance import Provenance, Trace

MessageAnnotation = tuple[int | None, Annotation]
"""A label and the id of the reply it is on, None for the user's message."""


_FORK_TITLE = re.compile(r"(.*) \(fork(?: \d+)?\)", re.DOTALL)


@dataclass(frozen=True)
class IdMap:
    """Where a chat stands now."""

    conversation_id: int
    turn_ids: dict[int, int]
    """The turns' ids in the values that were written -> those in the database."""
    reply_ids: dict[int, int]
    """The same for the replies."""

    def remap_reply(self, reply: int | None) -> int | None:
        """The id of a reply in the database; None for none."""
        return None if reply is None else self.reply_ids[reply]

    def remap_annotations(
        self, annotations: Iterable[MessageAnnotation]
    ) -> list[MessageAnnotation]:
        """Labels on the values, as those on what stands in the database."""
        return [(self.remap_reply(reply), label) for reply, label in annotations]

    def remap_traces(self, traces: Iterable[Trace]) -> list[Trace]:
        """The same for what plugins did."""
        return [
            dataclasses.replace(trace, reply_id=self.remap_reply(trace.reply_id))
            for trace in traces
        ]


def insert_conversation(db: sqlite3.Connection, conversation: Conversation) -> IdMap:
    """Add a chat as it is, but for its ids."""
    row = db.execute(
        "INSERT INTO conversation"
        " (title, system, created, updated, sampling, pinned, forked_from, kept, without)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            utf8_safe(conversation.title),
            utf8_safe(conversation.system),
            format_timestamp(conversation.created),
            format_timestamp(conversation.updated),
            dump_sampling(conversation.sampling),
            conversation.pinned,
            conversation.forked_from,
            dump_plugin_data(conversation.plugin_data),
            dump_plugin_names(conversation.disabled_plugins),
        ),
    )
    written = IdMap(row.lastrowid or 0, {}, {})
    for position, turn in enumerate(conversation.turns):
        _insert_turn(db, written, position, turn)
    return written


def _insert_turn(db: sqlite3.Connection, id_map: IdMap, position: int, turn: Turn) -> None:
    row = db.execute(
        "INSERT INTO turn (conversation_id, position, content, created, standing, summary, typed)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            id_map.conversation_id,
            position,
            utf8_safe(turn.user.text),
            format_timestamp(turn.created),
            turn.context_policy.value,
            utf8_safe(turn.summary),
            utf8_safe(turn.raw_input),
        ),
    )
    turn_id = id_map.turn_ids[turn.id] = row.lastrowid or 0
    for version, reply in enumerate(turn.replies, start=1):
        id_map.reply_ids[reply.id] = _insert_reply(db, turn_id, version, reply)
    if turn.reply is not None:
        chosen = id_map.reply_ids[turn.reply.id]
        db.execute("UPDATE turn SET chosen = ? WHERE id = ?", (chosen, turn_id))


def _insert_reply(db: sqlite3.Connection, turn_id: int, version: int, reply: Reply) -> int:
    usage = reply.usage
    row = db.execute(
        "INSERT INTO reply (turn_id, version, text, stop_reason, error, model, adapter, settings,"
        " prompt_tokens, cached_tokens, completion_tokens, first_token_seconds, decode_seconds,"
        " created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            turn_id,
            version,
            utf8_safe(reply.text),
            reply.stop_reason and reply.stop_reason.value,
            utf8_safe_or_none(reply.error),
            utf8_safe(reply.model),
            utf8_safe_or_none(reply.adapter),
            utf8_safe(reply.settings),
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            usage.first_token_seconds,
            usage.decode_seconds,
            format_timestamp(reply.created),
        ),
    )
    return row.lastrowid or 0


def insert_passages(db: sqlite3.Connection, turn_id: int, passages: Iterable[Passage]) -> None:
    """Passages of a turn; a score that is not finite is kept as 0."""
    db.executemany(
        "INSERT INTO passage (turn_id, text, source, score, details) VALUES (?, ?, ?, ?, ?)",
        [
            (
                turn_id,
                utf8_safe(p.text),
                utf8_safe(p.source),
                finite_or_none(p.score) or 0.0,
                dump_details(p.details),
            )
            for p in passages
        ],
    )


def insert_annotations(
    db: sqlite3.Connection, turn_id: int, annotations: Iterable[MessageAnnotation]
) -> None:
    """Labels of a turn."""
    db.executemany(
        "INSERT INTO annotation (turn_id, reply_id, plugin, name, value, score, icon)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                turn_id,
                reply_id,
                *map(utf8_safe, (label.plugin, label.name, label.value)),
                finite_or_none(label.score),
                utf8_safe(label.icon),
            )
            for reply_id, label in annotations
        ],
    )


def upsert_provenance(db: sqlite3.Connection, reply_id: int, provenance: Provenance) -> None:
    """What made a reply, in place of what was kept before."""
    db.execute(
        "INSERT OR REPLACE INTO provenance (reply_id, content) VALUES (?, ?)",
        (reply_id, dump_provenance(provenance)),
    )


def insert_traces(db: sqlite3.Connection, turn_id: int, traces: Iterable[Trace]) -> None:
    """What plugins did for a turn."""
    _insert_trace_rows(db, [(turn_id, trace.reply_id, dump_calls(trace)) for trace in traces])


def copy_related_rows(db: sqlite3.Connection, id_map: IdMap) -> None:
    """Give a copy the passages, labels, traces and provenance of the chat it was read from."""
    for old, new in id_map.turn_ids.items():
        db.execute(
            "INSERT INTO passage (turn_id, text, source, score, details)"
            " SELECT ?2, text, source, score, details FROM passage"
            " WHERE turn_id = ?1 ORDER BY id",
            (old, new),
        )
        found = db.execute("SELECT * FROM annotation WHERE turn_id = ? ORDER BY id", (old,))
        insert_annotations(db, new, id_map.remap_annotations(map(annotation_from_row, found)))
        found = db.execute("SELECT * FROM trace WHERE turn_id = ? ORDER BY rowid", (old,))
        _insert_trace_rows(
            db, [(new, id_map.remap_reply(row["reply_id"]), row["content"]) for row in found]
        )
    db.executemany(
        "INSERT INTO provenance (reply_id, content)"
        " SELECT ?2, content FROM provenance WHERE reply_id = ?1",
        id_map.reply_ids.items(),
    )


def _insert_trace_rows(
    db: sqlite3.Connection, rows: Iterable[tuple[int, int | None, bytes]]
) -> None:
    db.executemany("INSERT INTO trace (turn_id, reply_id, content) VALUES (?, ?, ?)", rows)


def fork_title(title: str, taken: Collection[str]) -> str:
    """What a copy is called: `Title (fork)`, and `Title (fork 2)` for a further one or its own."""
    match = _FORK_TITLE.fullmatch(title)
    stem = match[1] if match else title
    names = (f"{stem} (fork)" if number == 1 else f"{stem} (fork {number})" for number in count(1))
    return next(name for name in names if name not in taken)
