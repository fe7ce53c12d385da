"""Saved chats as `Store`: each write is on disk when its call returns; it knows no model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from chatlm.messages import Annotation, Conversation, Passage, Reply, StopReason, Turn, Usage
from chatlm.store import queries, rows
from chatlm.store.database import Database
from chatlm.store.queries import Summary, touch
from chatlm.store.rows import moment, storable
from chatlm.store.search import Hit, search


class Store:
    """The chats of one database file; every method may be called from any thread.

    Text is kept as it is, except that a lone surrogate, which UTF-8 cannot hold, becomes U+FFFD.

    Args:
        path: the database, made if absent; None keeps everything in memory (incognito).

    Raises:
        StoreError: from any method: SQLite failed, or what an id names is not there.
    """

    def __init__(self, path: Path | None) -> None:
        self._database = Database(path)

    def __enter__(self) -> Store:
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

    # --- conversations --------------------------------------------------------------------

    def create_conversation(self, title: str = "", system: str = "") -> Conversation:
        """A new, empty chat."""
        time = moment()
        with self._database.writing() as db:
            row = db.execute(
                "INSERT INTO conversation (title, system, created, updated) VALUES (?, ?, ?, ?)",
                (storable(title), storable(system), time, time),
            )
            return queries.conversation(db, row.lastrowid or 0)

    def conversations(self, limit: int | None = None, offset: int = 0) -> list[Summary]:
        """The chats, last changed first.

        Args:
            limit: at most this many; None for all.
            offset: leave out this many of the newest.
        """
        with self._database.reading() as db:
            return queries.summaries(db, limit, offset)

    def conversation(self, conversation_id: int) -> Conversation:
        """A chat with all its turns and replies, in order."""
        with self._database.reading() as db:
            return queries.conversation(db, conversation_id)

    def rename(self, conversation_id: int, title: str) -> None:
        """Give a chat a title; an empty one brings back the first message's beginning."""
        with self._database.writing() as db:
            queries.check_chat(db, conversation_id)
            db.execute(
                "UPDATE conversation SET title = ? WHERE id = ?",
                (storable(title), conversation_id),
            )

    def set_system(self, conversation_id: int, system: str) -> None:
        """Change a chat's system prompt."""
        with self._database.writing() as db:
            queries.check_chat(db, conversation_id)
            db.execute(
                "UPDATE conversation SET system = ? WHERE id = ?",
                (storable(system), conversation_id),
            )

    def delete(self, conversation_id: int) -> None:
        """Remove a chat with all that belongs to it, for good."""
        with self._database.writing() as db:
            queries.check_chat(db, conversation_id)
            db.execute("DELETE FROM conversation WHERE id = ?", (conversation_id,))
            queries.forget_deleted_words(db)
        self._database.shrink_log()  # the log may still hold the deleted text

    # --- turns and replies ----------------------------------------------------------------

    def add_turn(self, conversation_id: int, content: str) -> Turn:
        """The user's next message."""
        with self._database.writing() as db:
            queries.check_chat(db, conversation_id)
            row = db.execute(
                "INSERT INTO turn (conversation_id, position, content, created)"
                " SELECT ?1, coalesce(max(position) + 1, 0), ?2, ?3"
                " FROM turn WHERE conversation_id = ?1",
                (conversation_id, storable(content), moment()),
            )
            turn = queries.turn(db, row.lastrowid or 0)
            touch(db, turn.id)
            return turn

    def turn(self, turn_id: int) -> Turn:
        """A turn with its replies."""
        with self._database.reading() as db:
            return queries.turn(db, turn_id)

    def start_reply(
        self, turn_id: int, *, model: str, adapter: str | None = None, settings: str = "{}"
    ) -> Reply:
        """A new, empty version of the reply; it becomes the one that stands in the history."""
        with self._database.writing() as db:
            queries.check_turn(db, turn_id)
            row = db.execute(
                "INSERT INTO reply (turn_id, version, model, adapter, settings, created)"
                " SELECT ?1, coalesce(max(version) + 1, 1), ?2, ?3, ?4, ?5"
                " FROM reply WHERE turn_id = ?1",
                (turn_id, storable(model), _maybe(adapter), storable(settings), moment()),
            )
            reply_id = row.lastrowid or 0
            db.execute("UPDATE turn SET chosen = ? WHERE id = ?", (reply_id, turn_id))
            touch(db, turn_id)
            return queries.reply(db, reply_id)

    def journal(self, reply_id: int, text: str) -> None:
        """Keep the whole reply so far; a finished reply counts as growing again."""
        with self._database.writing() as db:
            queries.turn_of(db, reply_id)
            db.execute(
                "UPDATE reply SET text = ?, stop_reason = NULL, error = NULL WHERE id = ?",
                (storable(text), reply_id),
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
        with self._database.writing() as db:
            turn_id = queries.turn_of(db, reply_id)
            db.execute(
                "UPDATE reply SET text = ?, stop_reason = ?, error = ?,"
                " settings = coalesce(?, settings), prompt_tokens = ?, cached_tokens = ?,"
                " completion_tokens = ?, first_token_seconds = ?, decode_seconds = ?"
                " WHERE id = ?",
                (
                    storable(text),
                    stop_reason.value,
                    _maybe(error),
                    _maybe(settings),
                    usage.prompt_tokens,
                    usage.cached_tokens,
                    usage.completion_tokens,
                    usage.first_token_seconds,
                    usage.decode_seconds,
                    reply_id,
                ),
            )
            touch(db, turn_id)
            return queries.reply(db, reply_id)

    def choose(self, turn_id: int, reply_id: int) -> Turn:
        """Let this version of the reply stand in the history."""
        with self._database.writing() as db:
            queries.check_turn(db, turn_id, reply_id)
            db.execute("UPDATE turn SET chosen = ? WHERE id = ?", (reply_id, turn_id))
            return queries.turn(db, turn_id)

    # --- what plugins found ---------------------------------------------------------------

    def save_passages(self, turn_id: int, passages: Iterable[Passage]) -> None:
        """Keep what was found for a turn, in order, in place of what was kept before.

        A score that is not finite is kept as 0.
        """
        with self._database.writing() as db:
            queries.check_turn(db, turn_id)
            db.execute("DELETE FROM passage WHERE turn_id = ?", (turn_id,))
            db.executemany(
                "INSERT INTO passage (turn_id, text, source, score) VALUES (?, ?, ?, ?)",
                [
                    (turn_id, storable(p.text), storable(p.source), rows.finite(p.score) or 0.0)
                    for p in passages
                ],
            )

    def passages(self, turn_id: int) -> list[Passage]:
        """What was found for a turn, in the order it was saved."""
        with self._database.reading() as db:
            found = db.execute("SELECT * FROM passage WHERE turn_id = ? ORDER BY id", (turn_id,))
            return [rows.to_passage(row) for row in found]

    def annotate(
        self, turn_id: int, reply_id: int | None, annotations: Iterable[Annotation]
    ) -> None:
        """Label a reply, or the user's message (None), in place of the same plugins' old labels."""
        kept = list(annotations)
        with self._database.writing() as db:
            queries.check_turn(db, turn_id, reply_id)
            db.executemany(
                "DELETE FROM annotation WHERE turn_id = ? AND reply_id IS ? AND plugin = ?",
                [(turn_id, reply_id, storable(plugin)) for plugin in {a.plugin for a in kept}],
            )
            db.executemany(
                "INSERT INTO annotation (turn_id, reply_id, plugin, name, value, score)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (
                        turn_id,
                        reply_id,
                        *map(storable, (a.plugin, a.name, a.value)),
                        rows.finite(a.score),
                    )
                    for a in kept
                ],
            )

    def annotations(self, turn_id: int) -> list[tuple[int | None, Annotation]]:
        """A turn's labels, each with the reply it belongs to, None for the user's message."""
        with self._database.reading() as db:
            found = db.execute("SELECT * FROM annotation WHERE turn_id = ? ORDER BY id", (turn_id,))
            return [rows.to_annotation(row) for row in found]

    def search(self, query: str, limit: int = 50) -> list[Hit]:
        """Messages and replies that hold every word of `query`, newest first.

        The last word may be the beginning of one. Case and accents do not count.
        """
        with self._database.reading() as db:
            return search(db, storable(query), limit)


def _maybe(text: str | None) -> str | None:
    return None if text is None else storable(text)
