"""Conversations, turns, replies, labels, traces, trash."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chatlm.errors import StoreError
from chatlm.store import insert, queries, rows
from chatlm.store.database import Database
from chatlm.store.queries import ChatListEntry, TrashEntry, find_duplicate, touch_conversation
from chatlm.store.rows import (
    AnnotationLookup,
    PassageLookup,
    ProvenanceLookup,
    TraceLookup,
    current_timestamp,
    dump_plugin_data,
    dump_plugin_names,
    dump_sampling,
    format_timestamp,
    short_title,
    utf8_safe,
    utf8_safe_or_none,
)
from chatlm.store.search import ChatSearchHit, search
from chatlm.types.messages import (
    Annotation,
    ContextPolicy,
    Conversation,
    Passage,
    PluginData,
    Reply,
    StopReason,
    Turn,
    Usage,
    utc_now,
)
from chatlm.types.provenance import Provenance, Trace
from chatlm.types.sampling import Sampling


class Opened:
    """An open database.

    Args:
        path: the file, made if absent; None keeps everything in memory (incognito).
    """

    def __init__(self, path: Path | None) -> None:
        self.on_disk = path is not None
        """Whether what is written outlives the program."""
        self._database = Database(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; call no other method afterwards."""
        self._database.close()


class Chats(Opened):
    """The list of chats, each with what is set for it, and the trash."""

    def create_conversation(
        self,
        title: str = "",
        system: str = "",
        sampling: Sampling | None = None,
        plugin_data: PluginData | None = None,
        disabled_plugins: Iterable[str] = (),
    ) -> Conversation:
        """A new, empty chat."""
        time = current_timestamp()
        with self._database.write_transaction() as db:
            row = db.execute(
                "INSERT INTO conversation"
                " (title, system, sampling, kept, without, created, updated)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    utf8_safe(title),
                    utf8_safe(system),
                    dump_sampling(sampling or Sampling()),
                    dump_plugin_data(plugin_data or {}),
                    dump_plugin_names(disabled_plugins),
                    time,
                    time,
                ),
            )
            return queries.load_conversation(db, row.lastrowid or 0)

    def add_conversation(
        self,
        conversation: Conversation,
        passages: PassageLookup = lambda _: (),
        annotations: AnnotationLookup = lambda _: (),
        provenance: ProvenanceLookup = lambda _: None,
        traces: TraceLookup = lambda _: (),
    ) -> Conversation:
        """Write a whole chat that comes from elsewhere; it keeps its times and gets new ids.

        Args:
            conversation: the chat; no two of its turns, and no two replies, may share an id.
                `forked_from` must be None or a chat of this store.
            passages: those of its turns, by the ids in `conversation`.
            annotations: the labels, likewise.
            provenance: of its replies, likewise.
            traces: what plugins did for its turns, likewise.
        """
        found = [
            (turn.id, passages(turn.id), annotations(turn.id), traces(turn.id))
            for turn in conversation.turns
        ]
        replies = [reply.id for turn in conversation.turns for reply in turn.replies]
        made = [(reply, provenance(reply)) for reply in replies]
        with self._database.write_transaction() as db:
            written = insert.insert_conversation(db, conversation)
            for turn, pieces, labels, done in found:
                insert.insert_passages(db, written.turn_ids[turn], pieces)
                insert.insert_annotations(
                    db, written.turn_ids[turn], written.remap_annotations(labels)
                )
                insert.insert_traces(db, written.turn_ids[turn], written.remap_traces(done))
            for reply, known in made:
                if known is not None:
                    insert.upsert_provenance(db, written.reply_ids[reply], known)
            return queries.load_conversation(db, written.conversation_id)

    def find_duplicate(self, conversation: Conversation, *, created_known: bool) -> int | None:
        """The chat that an import of this one would only repeat; those in the trash do not count.

        That is one whose user messages begin as these do and go on at least as far, and that
        either began at the same moment or, where the moment is not known (`created_known` false),
        has the same system prompt and each reply among its versions.
        """
        with self._database.read_transaction() as db:
            return find_duplicate(db, conversation, created_known)

    def fork(self, conversation_id: int, turn_count: int | None = None) -> Conversation:
        """A new chat that goes on from an earlier one; nothing of that one changes.

        Args:
            conversation_id: the chat to copy.
            turn_count: how many of its turns, from the first; None takes all. With none of them, a
                chat that was named after its first message is named after its own.
        """
        with self._database.write_transaction() as db:
            original = queries.load_conversation(db, conversation_id)
            copied = original.turns[:turn_count]
            title = short_title(original.title, copied[0].display_text if copied else None)
            copy = dataclasses.replace(
                original,
                title=insert.fork_title(title, queries.list_fork_titles(db)) if title else "",
                turns=copied,
                created=utc_now(),
                updated=utc_now(),
                pinned=False,
                forked_from=conversation_id,
            )
            written = insert.insert_conversation(db, copy)
            insert.copy_related_rows(db, written)
            return queries.load_conversation(db, written.conversation_id)

    def list_conversations(self, limit: int | None = None, offset: int = 0) -> list[ChatListEntry]:
        """The chats, the pinned ones first, then last changed first.

        Args:
            limit: at most this many; None for all.
            offset: leave out this many of the first.
        """
        with self._database.read_transaction() as db:
            return queries.list_chat_entries(db, limit, offset)

    def conversation(self, conversation_id: int) -> Conversation:
        """A chat with all its turns and replies, in order."""
        with self._database.read_transaction() as db:
            return queries.load_conversation(db, conversation_id)

    def title(self, conversation_id: int) -> str:
        """What a chat is called, even one in the trash: its title, else the beginning of its first
        message; may be empty."""
        with self._database.read_transaction() as db:
            return queries.chat_title(db, conversation_id)

    def rename(self, conversation_id: int, title: str) -> None:
        """Give a chat a title; an empty one brings back the first message's beginning."""
        self._update(conversation_id, "UPDATE conversation SET title = ? WHERE id = ?", title)

    def set_system(self, conversation_id: int, system: str) -> None:
        """Change a chat's system prompt."""
        self._update(conversation_id, "UPDATE conversation SET system = ? WHERE id = ?", system)

    def set_sampling(self, conversation_id: int, sampling: Sampling) -> None:
        """Change what the person set for a chat."""
        settings = dump_sampling(sampling)
        self._update(conversation_id, "UPDATE conversation SET sampling = ? WHERE id = ?", settings)

    def set_plugin_data(self, conversation_id: int, plugin: str, values: Mapping[str, Any]) -> None:
        """Keep a plugin's values with a chat, in place of those it kept before.

        Args:
            conversation_id: the chat.
            plugin: whose they are.
            values: plain values, as JSON has them; none to keep nothing.

        Raises:
            TypeError, ValueError: a value that JSON does not have.
        """
        with self._database.write_transaction() as db:
            kept = dict(queries.load_conversation(db, conversation_id).plugin_data)
            kept.pop(plugin, None)
            if values:
                kept[plugin] = values
            db.execute(
                "UPDATE conversation SET kept = ? WHERE id = ?",
                (dump_plugin_data(kept), conversation_id),
            )

    def set_disabled_plugins(self, conversation_id: int, plugins: Iterable[str]) -> None:
        """Switch these plugins off in a chat, and all others on."""
        names = dump_plugin_names(plugins)
        self._update(conversation_id, "UPDATE conversation SET without = ? WHERE id = ?", names)

    def set_pinned(self, conversation_id: int, pinned: bool) -> None:
        """List a chat first, or no longer."""
        self._update(conversation_id, "UPDATE conversation SET pinned = ? WHERE id = ?", pinned)

    def trash(self, conversation_id: int) -> None:
        """Take a chat out of sight; `restore` brings it back."""
        self._update(
            conversation_id, "UPDATE conversation SET trashed = ? WHERE id = ?", current_timestamp()
        )

    def restore(self, conversation_id: int) -> None:
        """Take a chat out of the trash; one that is not there stays as it is."""
        with self._database.write_transaction() as db:
            queries.check_chat(db, conversation_id, allow_trashed=True)
            db.execute("UPDATE conversation SET trashed = NULL WHERE id = ?", (conversation_id,))

    def list_trash(self, limit: int | None = None) -> list[TrashEntry]:
        """What is in the trash, the last deleted first; at most `limit` of it, None for all."""
        with self._database.read_transaction() as db:
            return queries.list_trash_entries(db, limit)

    def empty_trash(self, before: datetime | None = None) -> int:
        """Remove for good what was put into the trash before this time; None removes all.

        Returns:
            how many chats were removed.
        """
        with self._database.write_transaction() as db:
            gone = db.execute(
                "DELETE FROM conversation WHERE trashed < ?",
                (format_timestamp(before or datetime.max.replace(tzinfo=UTC)),),
            ).rowcount
            if gone:
                queries.optimize_search_index(db)
        if gone:
            self._database.truncate_wal()  # the log may still hold the deleted text
        return gone

    def delete(self, conversation_id: int) -> None:
        """Remove a chat with all that belongs to it, for good, whether in the trash or not."""
        with self._database.write_transaction() as db:
            queries.check_chat(db, conversation_id, allow_trashed=True)
            db.execute("DELETE FROM conversation WHERE id = ?", (conversation_id,))
            queries.optimize_search_index(db)
        self._database.truncate_wal()  # the log may still hold the deleted text

    def draft(self, conversation_id: int | None) -> str:
        """What was typed in a chat and not sent; None asks for that of the new chat."""
        with self._database.read_transaction() as db:
            found = db.execute(
                "SELECT text FROM draft WHERE conversation_id IS ?", (conversation_id,)
            )
            row = found.fetchone()
            return "" if row is None else str(row["text"])

    def save_draft(self, conversation_id: int | None, text: str) -> None:
        """Keep what is typed in a chat, or in the new chat (None), until it is empty."""
        with self._database.write_transaction() as db:
            if conversation_id is not None:
                queries.check_chat(db, conversation_id, allow_trashed=True)
            db.execute("DELETE FROM draft WHERE conversation_id IS ?", (conversation_id,))
            if text:
                db.execute(
                    "INSERT INTO draft (conversation_id, text) VALUES (?, ?)",
                    (conversation_id, utf8_safe(text)),
                )

    def search(self, query: str, limit: int = 50) -> list[ChatSearchHit]:
        """Titles, messages and replies that hold every word of `query`.

        Titles come first; in both kinds the newest comes first. The last word may be the
        beginning of one. Case and accents do not count.
        """
        with self._database.read_transaction() as db:
            return search(db, utf8_safe(query), limit)

    def _update(self, conversation_id: int, update: str, value: str | bool) -> None:
        with self._database.write_transaction() as db:
            queries.check_chat(db, conversation_id)
            kept = utf8_safe(value) if isinstance(value, str) else value
            db.execute(update, (kept, conversation_id))


class Turns(Opened):
    """What is said in the chats, and what made it."""

    def add_turn(self, conversation_id: int, content: str, raw_input: str = "") -> Turn:
        """The user's next message; `raw_input` where it was made from other words."""
        with self._database.write_transaction() as db:
            queries.check_chat(db, conversation_id)
            row = db.execute(
                "INSERT INTO turn (conversation_id, position, content, created, typed)"
                " SELECT ?1, coalesce(max(position) + 1, 0), ?2, ?3, ?4"
                " FROM turn WHERE conversation_id = ?1",
                (conversation_id, utf8_safe(content), current_timestamp(), utf8_safe(raw_input)),
            )
            turn = queries.load_turn(db, row.lastrowid or 0)
            touch_conversation(db, turn.id)
            return turn

    def turn(self, turn_id: int) -> Turn:
        """A turn with its replies."""
        with self._database.read_transaction() as db:
            return queries.load_turn(db, turn_id)

    def reply(self, reply_id: int) -> Reply:
        """One version of a reply."""
        with self._database.read_transaction() as db:
            return queries.load_reply(db, reply_id)

    def start_reply(
        self, turn_id: int, *, model: str, adapter: str | None = None, settings: str = "{}"
    ) -> Reply:
        """A new, empty version of the reply; it becomes the one that stands in the history."""
        with self._database.write_transaction() as db:
            queries.check_turn(db, turn_id)
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
            db.execute("UPDATE turn SET chosen = ? WHERE id = ?", (reply_id, turn_id))
            touch_conversation(db, turn_id)
            return queries.load_reply(db, reply_id)

    def journal_reply(self, reply_id: int, text: str) -> None:
        """Keep the whole reply so far; a finished reply counts as growing again."""
        with self._database.write_transaction() as db:
            queries.turn_id_of_reply(db, reply_id)
            db.execute(
                "UPDATE reply SET text = ?, stop_reason = NULL, error = NULL WHERE id = ?",
                (utf8_safe(text), reply_id),
            )

    def finish_reply(
        self,
        reply_id: int,
        *,
        text: str,
        stop_reason: StopReason,
        usage: Usage,
        settings: str | None = None,
        error: str | None = None,
    ) -> Reply:
        """Keep the whole reply and why it stopped; `settings` None leaves them as they were."""
        with self._database.write_transaction() as db:
            turn_id = queries.turn_id_of_reply(db, reply_id)
            db.execute(
                "UPDATE reply SET text = ?, stop_reason = ?, error = ?,"
                " settings = coalesce(?, settings), prompt_tokens = ?, cached_tokens = ?,"
                " completion_tokens = ?, first_token_seconds = ?, decode_seconds = ?"
                " WHERE id = ?",
                (
                    utf8_safe(text),
                    stop_reason.value,
                    utf8_safe_or_none(error),
                    utf8_safe_or_none(settings),
                    usage.prompt_tokens,
                    usage.cached_tokens,
                    usage.completion_tokens,
                    usage.first_token_seconds,
                    usage.decode_seconds,
                    reply_id,
                ),
            )
            touch_conversation(db, turn_id)
            return queries.load_reply(db, reply_id)

    def choose_reply(self, turn_id: int, reply_id: int) -> Turn:
        """Let this version of the reply stand in the history."""
        with self._database.write_transaction() as db:
            queries.check_turn(db, turn_id, reply_id)
            db.execute("UPDATE turn SET chosen = ? WHERE id = ?", (reply_id, turn_id))
            return queries.load_turn(db, turn_id)

    def set_context_policy(
        self, turn_id: int, policy: ContextPolicy, summary: str | None = None
    ) -> Turn:
        """Say how a turn takes part in what the model reads.

        Args:
            turn_id: the turn.
            policy: from now on.
            summary: what may stand for the turn; None keeps the one there is.
        """
        with self._database.write_transaction() as db:
            queries.check_turn(db, turn_id)
            db.execute(
                "UPDATE turn SET standing = ?, summary = coalesce(?, summary) WHERE id = ?",
                (policy.value, utf8_safe_or_none(summary), turn_id),
            )
            return queries.load_turn(db, turn_id)

    def save_provenance(self, reply_id: int, provenance: Provenance) -> None:
        """Keep what made a reply, in place of what was kept before."""
        with self._database.write_transaction() as db:
            queries.turn_id_of_reply(db, reply_id)
            insert.upsert_provenance(db, reply_id, provenance)

    def provenance(self, reply_id: int) -> Provenance | None:
        """What made a reply; None where that was not kept."""
        with self._database.read_transaction() as db:
            queries.turn_id_of_reply(db, reply_id)
            found = db.execute("SELECT content FROM provenance WHERE reply_id = ?", (reply_id,))
            row = found.fetchone()
        if row is None:
            return None
        provenance = rows.load_provenance(row["content"])
        if provenance is None:
            raise StoreError(
                f"What made reply {reply_id} is damaged and cannot be read.",
                hint="The reply itself is whole; make it again to keep it anew.",
            )
        return provenance

    def recent_inputs(self, limit: int = 200) -> list[str]:
        """The newest different messages that were sent, newest first."""
        texts: dict[str, None] = {}
        with self._database.read_transaction() as db:
            for row in db.execute(queries.RECENT_INPUTS_SQL):
                texts[row["words"]] = None
                if len(texts) >= limit:
                    break
        return list(texts)


class Found(Opened):
    """Passages, labels, and what plugins did."""

    def save_passages(self, turn_id: int, passages: Iterable[Passage]) -> None:
        """Keep what was found for a turn, in order, in place of what was kept before.

        A score that is not finite is kept as 0.
        """
        with self._database.write_transaction() as db:
            queries.check_turn(db, turn_id)
            db.execute("DELETE FROM passage WHERE turn_id = ?", (turn_id,))
            insert.insert_passages(db, turn_id, passages)

    def passages(self, turn_id: int) -> list[Passage]:
        """What was found for a turn, in the order it was saved."""
        with self._database.read_transaction() as db:
            found = db.execute("SELECT * FROM passage WHERE turn_id = ? ORDER BY id", (turn_id,))
            return [rows.passage_from_row(row) for row in found]

    def annotate(
        self, turn_id: int, reply_id: int | None, annotations: Iterable[Annotation]
    ) -> None:
        """Label a reply, or the user's message (None), in place of the same plugins' old labels."""
        kept = list(annotations)
        with self._database.write_transaction() as db:
            queries.check_turn(db, turn_id, reply_id)
            db.executemany(
                "DELETE FROM annotation WHERE turn_id = ? AND reply_id IS ? AND plugin = ?",
                [(turn_id, reply_id, utf8_safe(plugin)) for plugin in {a.plugin for a in kept}],
            )
            insert.insert_annotations(db, turn_id, [(reply_id, label) for label in kept])

    def annotations(self, turn_id: int) -> list[tuple[int | None, Annotation]]:
        """A turn's labels, each with the reply it belongs to, None for the user's message."""
        with self._database.read_transaction() as db:
            found = db.execute("SELECT * FROM annotation WHERE turn_id = ? ORDER BY id", (turn_id,))
            return [rows.annotation_from_row(row) for row in found]

    def save_trace(self, turn_id: int, trace: Trace) -> None:
        """Keep what plugins did for a turn, beside what they did for it before."""
        with self._database.write_transaction() as db:
            queries.check_turn(db, turn_id, trace.reply_id)
            insert.insert_traces(db, turn_id, [trace])

    def traces(self, turn_id: int) -> list[Trace]:
        """What plugins did for a turn, in the order they did it."""
        with self._database.read_transaction() as db:
            found = db.execute("SELECT * FROM trace WHERE turn_id = ? ORDER BY rowid", (turn_id,))
            return [rows.trace_from_row(row) for row in found]


class Store(Chats, Turns, Found):
    """The chats of one database file; every method may be called from any thread.

    Text is kept as it is, except that a lone surrogate, which UTF-8 cannot hold, becomes U+FFFD.

    Args:
        path: the database, made if absent; None keeps everything in memory (incognito).

    Raises:
        StoreError: from any method: SQLite failed, what an id names is not there, or it is a chat
            in the trash.
    """
