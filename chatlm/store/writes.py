"""SQL that inserts, updates and deletes chats, inside the caller's transaction."""

from __future__ import annotations

import dataclasses
import re
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Literal

from chatlm.store.rows import (
    annotation_from_row,
    current_timestamp,
    dump_calls,
    dump_details,
    dump_images,
    dump_message_parts,
    dump_plugin_data,
    dump_plugin_names,
    dump_project,
    dump_provenance,
    dump_sampling,
    dump_steps,
    dump_tags,
    dump_tools,
    finite_or_none,
    format_timestamp,
    tool_text,
    utf8_safe,
    utf8_safe_or_none,
)
from chatlm.types.conversations import ContextPolicy, Conversation, PluginData, Turn
from chatlm.types.messages import Annotation, Message, Passage
from chatlm.types.provenance import Provenance, Trace
from chatlm.types.replies import Reply

ConversationColumn = Literal[
    "title",
    "system",
    "sampling",
    "without",
    "pinned",
    "source",
    "project",
    "tags",
    "tools",
]

MessageAnnotation = tuple[int | None, Annotation]
"""A label and the id of its reply, None for the user's message."""


_FORK_TITLE = re.compile(r"(.*) \(fork(?: \d+)?\)", re.DOTALL)


@dataclass(frozen=True)
class IdMap:
    """The new ids of an inserted chat."""

    conversation_id: int
    turn_ids: dict[int, int]
    """Id of each turn in the inserted value -> its id in the database."""
    reply_ids: dict[int, int]
    """The same for replies."""

    def remap_reply(self, reply: int | None) -> int | None:
        """Return the new id of a reply; None stays None."""
        return None if reply is None else self.reply_ids[reply]

    def remap_annotations(
        self, annotations: Iterable[MessageAnnotation]
    ) -> list[MessageAnnotation]:
        """Return the labels with their replies' new ids."""
        return [(self.remap_reply(reply), label) for reply, label in annotations]

    def remap_traces(self, traces: Iterable[Trace]) -> list[Trace]:
        """Return the traces with their replies' new ids."""
        return [
            dataclasses.replace(trace, reply_id=self.remap_reply(trace.reply_id))
            for trace in traces
        ]


def start_ids(db: sqlite3.Connection, first_id: int) -> None:
    """Let the ids of chats, turns and replies in an empty database begin at `first_id`."""
    db.executemany(
        "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)",
        [(table, first_id - 1) for table in ("conversation", "turn", "reply")],
    )


def insert_conversation(db: sqlite3.Connection, conversation: Conversation) -> IdMap:
    """Insert a chat with its turns and replies; all get new ids."""
    row = db.execute(
        "INSERT INTO conversation"
        " (title, system, created, updated, sampling, pinned, forked_from, kept, without,"
        " project, tags, tools) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
            dump_project(conversation.project),
            dump_tags(conversation.tags),
            dump_tools(conversation.tools),
        ),
    )
    written = IdMap(row.lastrowid or 0, {}, {})
    for position, turn in enumerate(conversation.turns):
        _insert_turn(db, written, position, turn)
    return written


def _insert_turn(db: sqlite3.Connection, id_map: IdMap, position: int, turn: Turn) -> None:
    row = db.execute(
        "INSERT INTO turn (conversation_id, position, content, parts, created, standing, summary,"
        " typed) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            id_map.conversation_id,
            position,
            utf8_safe(turn.user.text),
            dump_message_parts(turn.user),
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
        "INSERT INTO reply (turn_id, version, text, reasoning, tool_text, steps, stop_reason,"
        " error, model, adapter, settings, prompt_tokens, cached_tokens, completion_tokens,"
        " first_token_seconds, decode_seconds, created)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            turn_id,
            version,
            utf8_safe(reply.text),
            utf8_safe(reply.reasoning),
            tool_text(reply.steps),
            dump_steps(reply.steps),
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


def append_turn(
    db: sqlite3.Connection, conversation_id: int, message: Message, raw_input: str
) -> int:
    """Insert a turn at the end of a chat and return its id."""
    row = db.execute(
        "INSERT INTO turn (conversation_id, position, content, parts, created, typed)"
        " SELECT ?1, coalesce(max(position) + 1, 0), ?2, ?3, ?4, ?5"
        " FROM turn WHERE conversation_id = ?1",
        (
            conversation_id,
            utf8_safe(message.text),
            dump_message_parts(message),
            current_timestamp(),
            utf8_safe(raw_input),
        ),
    )
    turn_id = row.lastrowid or 0
    touch_conversation(db, turn_id)
    return turn_id


def rewrite_message(db: sqlite3.Connection, turn_id: int, message: Message, raw_input: str) -> None:
    """Update the user's message of a turn."""
    db.execute(
        "UPDATE turn SET content = ?, parts = ?, typed = ? WHERE id = ?",
        (utf8_safe(message.text), dump_message_parts(message), utf8_safe(raw_input), turn_id),
    )


def delete_turn(db: sqlite3.Connection, turn_id: int) -> None:
    """Delete a turn; all that belongs to it is deleted with it."""
    db.execute("DELETE FROM turn WHERE id = ?", (turn_id,))


def append_reply(
    db: sqlite3.Connection, turn_id: int, model: str, adapter: str | None, settings: str
) -> int:
    """Insert an empty version of the reply, make it the active one and return its id."""
    row = db.execute(
        "INSERT INTO reply (turn_id, version, model, adapter, settings, created)"
        " SELECT ?1, coalesce(max(version) + 1, 1), ?2, ?3, ?4, ?5"
        " FROM reply WHERE turn_id = ?1",
        (
            turn_id,
            utf8_safe(model),
            utf8_safe_or_none(adapter),
            utf8_safe(settings),
            current_timestamp(),
        ),
    )
    reply_id = row.lastrowid or 0
    set_active_reply(db, turn_id, reply_id)
    touch_conversation(db, turn_id)
    return reply_id


def set_active_reply(db: sqlite3.Connection, turn_id: int, reply_id: int) -> None:
    """Make a version of the reply the active one."""
    db.execute("UPDATE turn SET chosen = ? WHERE id = ?", (reply_id, turn_id))


def journal_reply(db: sqlite3.Connection, reply: Reply) -> None:
    """Update the steps of a growing reply."""
    db.execute(
        "UPDATE reply SET text = ?, reasoning = ?, tool_text = ?, steps = ?, stop_reason = NULL,"
        " error = NULL WHERE id = ?",
        (
            utf8_safe(reply.text),
            utf8_safe(reply.reasoning),
            tool_text(reply.steps),
            dump_steps(reply.with_stop_reason(None).steps),
            reply.id,
        ),
    )


def finish_reply(
    db: sqlite3.Connection, reply: Reply, settings: str | None, error: str | None
) -> None:
    """Update a reply that stopped growing; `settings` None leaves them unchanged."""
    usage = reply.usage
    db.execute(
        "UPDATE reply SET text = ?, reasoning = ?, tool_text = ?, steps = ?, stop_reason = ?,"
        " error = ?, settings = coalesce(?, settings), prompt_tokens = ?, cached_tokens = ?,"
        " completion_tokens = ?, first_token_seconds = ?, decode_seconds = ?"
        " WHERE id = ?",
        (
            utf8_safe(reply.text),
            utf8_safe(reply.reasoning),
            tool_text(reply.steps),
            dump_steps(reply.steps),
            reply.stop_reason and reply.stop_reason.value,
            utf8_safe_or_none(error),
            utf8_safe_or_none(settings),
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            usage.first_token_seconds,
            usage.decode_seconds,
            reply.id,
        ),
    )


def set_context_policy(
    db: sqlite3.Connection, turn_id: int, policy: ContextPolicy, summary: str | None
) -> None:
    """Update a turn's context policy; `summary` None leaves the stored one."""
    db.execute(
        "UPDATE turn SET standing = ?, summary = coalesce(?, summary) WHERE id = ?",
        (policy.value, utf8_safe_or_none(summary), turn_id),
    )


def touch_conversation(db: sqlite3.Connection, turn_id: int) -> None:
    """Set the time at which the turn's chat changed to now."""
    db.execute(
        "UPDATE conversation SET updated = ?"
        " WHERE id = (SELECT conversation_id FROM turn WHERE id = ?)",
        (current_timestamp(), turn_id),
    )


def set_conversation_column(
    db: sqlite3.Connection, conversation_id: int, column: ConversationColumn, value: str | bool
) -> None:
    """Update one column of a chat."""
    db.execute(
        f"UPDATE conversation SET {column} = ? WHERE id = ?",  # noqa: S608 - one of nine literals
        (value, conversation_id),
    )


def set_plugin_data(db: sqlite3.Connection, conversation_id: int, plugin_data: PluginData) -> None:
    """Replace what all plugins store with a chat."""
    db.execute(
        "UPDATE conversation SET kept = ? WHERE id = ?",
        (dump_plugin_data(plugin_data), conversation_id),
    )


def set_trashed(db: sqlite3.Connection, conversation_id: int, *, trashed: bool) -> None:
    """Move a chat to the trash, or out of it."""
    time = current_timestamp() if trashed else None
    db.execute("UPDATE conversation SET trashed = ? WHERE id = ?", (time, conversation_id))


def delete_trashed(db: sqlite3.Connection, before: datetime | None) -> int:
    """Delete the chats trashed before a time, None for all; returns how many there were."""
    limit = format_timestamp(before or datetime.max.replace(tzinfo=UTC))
    deleted = db.execute("DELETE FROM conversation WHERE trashed < ?", (limit,)).rowcount
    if deleted:
        _optimize_search_index(db)
    return deleted


def delete_conversation(db: sqlite3.Connection, conversation_id: int) -> None:
    """Delete a chat; all that belongs to it is deleted with it."""
    db.execute("DELETE FROM conversation WHERE id = ?", (conversation_id,))
    _optimize_search_index(db)


def _optimize_search_index(db: sqlite3.Connection) -> None:
    """Rewrite the word index; until then it still contains deleted words, marked as deleted."""
    db.execute("INSERT INTO turn_words (turn_words) VALUES ('optimize')")
    db.execute("INSERT INTO reply_words (reply_words) VALUES ('optimize')")
    db.execute("INSERT INTO reasoning_words (reasoning_words) VALUES ('optimize')")
    db.execute("INSERT INTO tool_words (tool_words) VALUES ('optimize')")
    db.execute("INSERT INTO title_words (title_words) VALUES ('optimize')")


def replace_draft(db: sqlite3.Connection, conversation_id: int | None, text: str) -> None:
    """Replace the unsent text of a chat; empty text deletes it."""
    db.execute("DELETE FROM draft WHERE conversation_id IS ?", (conversation_id,))
    if text:
        db.execute(
            "INSERT INTO draft (conversation_id, text) VALUES (?, ?)",
            (conversation_id, utf8_safe(text)),
        )


def delete_passages(db: sqlite3.Connection, turn_id: int) -> None:
    """Delete the passages of a turn."""
    db.execute("DELETE FROM passage WHERE turn_id = ?", (turn_id,))


def delete_annotations(
    db: sqlite3.Connection, turn_id: int, reply_id: int | None, plugins: Iterable[str]
) -> None:
    """Delete these plugins' labels on a reply, or on the user's message (None)."""
    db.executemany(
        "DELETE FROM annotation WHERE turn_id = ? AND reply_id IS ? AND plugin = ?",
        [(turn_id, reply_id, utf8_safe(plugin)) for plugin in plugins],
    )


def insert_passages(db: sqlite3.Connection, turn_id: int, passages: Iterable[Passage]) -> None:
    """Insert the passages of a turn; a score that is not finite becomes 0."""
    db.executemany(
        "INSERT INTO passage (turn_id, text, source, score, details, images)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                turn_id,
                utf8_safe(p.text),
                utf8_safe(p.source),
                finite_or_none(p.score) or 0.0,
                dump_details(p.details),
                dump_images(p.images),
            )
            for p in passages
        ],
    )


def insert_annotations(
    db: sqlite3.Connection, turn_id: int, annotations: Iterable[MessageAnnotation]
) -> None:
    """Insert the labels of a turn."""
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
    """Insert the provenance of a reply, replacing an earlier one."""
    db.execute(
        "INSERT OR REPLACE INTO provenance (reply_id, content) VALUES (?, ?)",
        (reply_id, dump_provenance(provenance)),
    )


def insert_traces(db: sqlite3.Connection, turn_id: int, traces: Iterable[Trace]) -> None:
    """Insert traces of plugin calls for a turn."""
    _insert_trace_rows(db, [(turn_id, trace.reply_id, dump_calls(trace)) for trace in traces])


def copy_related_rows(db: sqlite3.Connection, id_map: IdMap) -> None:
    """Copy passages, labels, traces and provenance of the chat a fork was made from."""
    for old, new in id_map.turn_ids.items():
        db.execute(
            "INSERT INTO passage (turn_id, text, source, score, details, images)"
            " SELECT ?2, text, source, score, details, images FROM passage"
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
    """Return the title of a copy: `Title (fork)`, or `Title (fork 2)` where that is taken."""
    match = _FORK_TITLE.fullmatch(title)
    stem = match[1] if match else title
    names = (f"{stem} (fork)" if number == 1 else f"{stem} (fork {number})" for number in count(1))
    return next(name for name in names if name not in taken)
