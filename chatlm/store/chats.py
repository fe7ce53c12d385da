"""The saved chats themselves, as a part of `Store`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from chatlm.messages import Conversation, Kept, now
from chatlm.sampling import Sampling
from chatlm.store import copying, queries
from chatlm.store.lookups import AnnotationsOf, PassagesOf, ProvenanceOf, TracesOf
from chatlm.store.opened import Opened
from chatlm.store.queries import Summary, Trashed
from chatlm.store.rows import (
    from_kept,
    from_sampling,
    from_without,
    moment,
    short_title,
    stamp,
    storable,
)
from chatlm.store.sameness import find_same
from chatlm.store.search import Hit, search


class Chats(Opened):
    """The list of chats, each with what is set for it, and the trash."""

    def create_conversation(
        self,
        title: str = "",
        system: str = "",
        sampling: Sampling | None = None,
        kept: Kept | None = None,
        without: Iterable[str] = (),
    ) -> Conversation:
        """A new, empty chat."""
        time = moment()
        with self._database.writing() as db:
            row = db.execute(
                "INSERT INTO conversation"
                " (title, system, sampling, kept, without, created, updated)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    storable(title),
                    storable(system),
                    from_sampling(sampling or Sampling()),
                    from_kept(kept or {}),
                    from_without(without),
                    time,
                    time,
                ),
            )
            return queries.conversation(db, row.lastrowid or 0)

    def add_conversation(
        self,
        conversation: Conversation,
        passages: PassagesOf = lambda _: (),
        annotations: AnnotationsOf = lambda _: (),
        provenance: ProvenanceOf = lambda _: None,
        traces: TracesOf = lambda _: (),
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
        with self._database.writing() as db:
            written = copying.write(db, conversation)
            for turn, pieces, labels, done in found:
                copying.add_passages(db, written.turns[turn], pieces)
                copying.add_annotations(db, written.turns[turn], written.labels(labels))
                copying.add_traces(db, written.turns[turn], written.traces(done))
            for reply, known in made:
                if known is not None:
                    copying.keep_provenance(db, written.replies[reply], known)
            return queries.conversation(db, written.id)

    def find_same(self, conversation: Conversation, *, timed: bool) -> int | None:
        """The chat that an import of this one would only repeat; those in the trash do not count.

        That is one whose user messages begin as these do and go on at least as far, and that
        either began at the same moment or, where the moment is not known (`timed` false), has
        the same system prompt and each reply among its versions.
        """
        with self._database.reading() as db:
            return find_same(db, conversation, timed)

    def fork(self, conversation_id: int, turns: int | None = None) -> Conversation:
        """A new chat that goes on from an earlier one; nothing of that one changes.

        Args:
            conversation_id: the chat to copy.
            turns: how many of its turns, from the first; None takes all. With none of them, a
                chat that was named after its first message is named after its own.
        """
        with self._database.writing() as db:
            original = queries.conversation(db, conversation_id)
            copied = original.turns[:turns]
            title = short_title(original.title, copied[0].words if copied else None)
            copy = dataclasses.replace(
                original,
                title=copying.fork_title(title, queries.fork_titles(db)) if title else "",
                turns=copied,
                created=now(),
                updated=now(),
                pinned=False,
                forked_from=conversation_id,
            )
            written = copying.write(db, copy)
            copying.copy_belongings(db, written)
            return queries.conversation(db, written.id)

    def conversations(self, limit: int | None = None, offset: int = 0) -> list[Summary]:
        """The chats, the pinned ones first, then last changed first.

        Args:
            limit: at most this many; None for all.
            offset: leave out this many of the first.
        """
        with self._database.reading() as db:
            return queries.summaries(db, limit, offset)

    def conversation(self, conversation_id: int) -> Conversation:
        """A chat with all its turns and replies, in order."""
        with self._database.reading() as db:
            return queries.conversation(db, conversation_id)

    def title(self, conversation_id: int) -> str:
        """What a chat is called, even one in the trash: its title, else the beginning of its first
        message; may be empty."""
        with self._database.reading() as db:
            return queries.title(db, conversation_id)

    def rename(self, conversation_id: int, title: str) -> None:
        """Give a chat a title; an empty one brings back the first message's beginning."""
        self._set(conversation_id, "UPDATE conversation SET title = ? WHERE id = ?", title)

    def set_system(self, conversation_id: int, system: str) -> None:
        """Change a chat's system prompt."""
        self._set(conversation_id, "UPDATE conversation SET system = ? WHERE id = ?", system)

    def set_sampling(self, conversation_id: int, sampling: Sampling) -> None:
        """Change what the person set for a chat."""
        settings = from_sampling(sampling)
        self._set(conversation_id, "UPDATE conversation SET sampling = ? WHERE id = ?", settings)

    def keep(self, conversation_id: int, plugin: str, values: Mapping[str, Any]) -> None:
        """Keep a plugin's values with a chat, in place of those it kept before.

        Args:
            conversation_id: the chat.
            plugin: whose they are.
            values: plain values, as JSON has them; none to keep nothing.

        Raises:
            TypeError, ValueError: a value that JSON does not have.
        """
        with self._database.writing() as db:
            kept = dict(queries.conversation(db, conversation_id).kept)
            kept.pop(plugin, None)
            if values:
                kept[plugin] = values
            db.execute(
                "UPDATE conversation SET kept = ? WHERE id = ?", (from_kept(kept), conversation_id)
            )

    def set_without(self, conversation_id: int, plugins: Iterable[str]) -> None:
        """Switch these plugins off in a chat, and all others on."""
        names = from_without(plugins)
        self._set(conversation_id, "UPDATE conversation SET without = ? WHERE id = ?", names)

    def set_pinned(self, conversation_id: int, pinned: bool) -> None:
        """List a chat first, or no longer."""
        self._set(conversation_id, "UPDATE conversation SET pinned = ? WHERE id = ?", pinned)

    def trash(self, conversation_id: int) -> None:
        """Take a chat out of sight; `restore` brings it back."""
        self._set(conversation_id, "UPDATE conversation SET trashed = ? WHERE id = ?", moment())

    def restore(self, conversation_id: int) -> None:
        """Take a chat out of the trash; one that is not there stays as it is."""
        with self._database.writing() as db:
            queries.check_chat(db, conversation_id, trashed=True)
            db.execute("UPDATE conversation SET trashed = NULL WHERE id = ?", (conversation_id,))

    def trashed(self, limit: int | None = None) -> list[Trashed]:
        """What is in the trash, the last deleted first; at most `limit` of it, None for all."""
        with self._database.reading() as db:
            return queries.trash(db, limit)

    def empty_trash(self, before: datetime | None = None) -> int:
        """Remove for good what was put into the trash before this time; None removes all.

        Returns:
            how many chats were removed.
        """
        with self._database.writing() as db:
            gone = db.execute(
                "DELETE FROM conversation WHERE trashed < ?",
                (stamp(before or datetime.max.replace(tzinfo=UTC)),),
            ).rowcount
            if gone:
                queries.forget_deleted_words(db)
        if gone:
            self._database.shrink_log()  # the log may still hold the deleted text
        return gone

    def delete(self, conversation_id: int) -> None:
        """Remove a chat with all that belongs to it, for good, whether in the trash or not."""
        with self._database.writing() as db:
            queries.check_chat(db, conversation_id, trashed=True)
            db.execute("DELETE FROM conversation WHERE id = ?", (conversation_id,))
            queries.forget_deleted_words(db)
        self._database.shrink_log()  # the log may still hold the deleted text

    def draft(self, conversation_id: int | None) -> str:
        """What was typed in a chat and not sent; None asks for that of the new chat."""
        with self._database.reading() as db:
            found = db.execute(
                "SELECT text FROM draft WHERE conversation_id IS ?", (conversation_id,)
            )
            row = found.fetchone()
            return "" if row is None else str(row["text"])

    def save_draft(self, conversation_id: int | None, text: str) -> None:
        """Keep what is typed in a chat, or in the new chat (None), until it is empty."""
        with self._database.writing() as db:
            if conversation_id is not None:
                queries.check_chat(db, conversation_id, trashed=True)
            db.execute("DELETE FROM draft WHERE conversation_id IS ?", (conversation_id,))
            if text:
                db.execute(
                    "INSERT INTO draft (conversation_id, text) VALUES (?, ?)",
                    (conversation_id, storable(text)),
                )

    def search(self, query: str, limit: int = 50) -> list[Hit]:
        """Titles, messages and replies that hold every word of `query`.

        Titles come first; in both kinds the newest comes first. The last word may be the
        beginning of one. Case and accents do not count.
        """
        with self._database.reading() as db:
            return search(db, storable(query), limit)

    def _set(self, conversation_id: int, update: str, value: str | bool) -> None:
        with self._database.writing() as db:
            queries.check_chat(db, conversation_id)
            kept = storable(value) if isinstance(value, str) else value
            db.execute(update, (kept, conversation_id))
