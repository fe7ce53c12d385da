"""Vectors of messages and replies, by which they are found by meaning.

A chat's vectors are deleted with it, and those of a text with its next change.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chatlm.store.database import Database
from chatlm.store.queries import chat_title
from chatlm.store.rows import as_text
from chatlm.store.search import SNIPPET_WIDTH, ChatSearchHit

_TEXTS = """SELECT t.id AS turn_id, NULL AS reply_id, t.words AS text
        FROM turn t JOIN conversation c ON c.id = t.conversation_id
        WHERE c.trashed IS NULL AND trim(t.words) <> '' AND NOT EXISTS (
            SELECT 1 FROM text_vector v
            WHERE v.turn_id = t.id AND v.reply_id IS NULL AND v.embedder = :embedder)
    UNION ALL SELECT t.id, r.id, r.text
        FROM reply r JOIN turn t ON t.id = r.turn_id JOIN conversation c ON c.id = t.conversation_id
        WHERE c.trashed IS NULL AND trim(r.text) <> '' AND NOT EXISTS (
            SELECT 1 FROM text_vector v WHERE v.reply_id = r.id AND v.embedder = :embedder)"""


@dataclass(frozen=True)
class ChatText:
    """A message, or a reply."""

    turn_id: int
    reply_id: int | None
    """None for a message."""
    text: str


@dataclass(frozen=True)
class TextVector:
    """The vector of a part of a message or reply."""

    turn_id: int
    reply_id: int | None
    """None for a message."""
    start: int
    """Where the part begins in the text, in characters."""
    vector: bytes
    """16-bit floats; empty for a text with nothing to embed."""


class TextVectors:
    """The vectors of a store's chats; every method may be called from any thread.

    Args:
        database: of the store.

    Raises:
        StoreError: from any method: SQLite failed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def missing(self, embedder: str, limit: int) -> tuple[list[ChatText], int]:
        """Return the newest texts without vectors, and how many there are in all.

        Chats in the trash are left out.

        Args:
            embedder: what made the vectors.
            limit: maximum number of texts.
        """
        arguments = {"embedder": embedder, "limit": limit}
        with self._database.read_transaction() as db:
            (count,) = db.execute(f"SELECT count(*) FROM ({_TEXTS})", arguments).fetchone()  # noqa: S608
            rows = db.execute(f"{_TEXTS} ORDER BY 1 DESC, 2 LIMIT :limit", arguments)
            return [ChatText(row[0], row[1], as_text(row[2])) for row in rows], int(count)

    def add(self, embedder: str, texts: Iterable[ChatText], vectors: Iterable[TextVector]) -> None:
        """Store the vectors of texts, and delete those of other embedders.

        A text that was changed or deleted since it was read is left out.

        Args:
            embedder: what made the vectors.
            texts: as they were when they were embedded.
            vectors: of all parts of these texts.
        """
        with self._database.write_transaction() as db:
            db.execute("DELETE FROM text_vector WHERE embedder <> ?", (embedder,))
            same = {
                (each.turn_id, each.reply_id) for each in texts if _text_now(db, each) == each.text
            }
            db.executemany(
                "INSERT INTO text_vector (turn_id, reply_id, embedder, start, vector)"
                " VALUES (?, ?, ?, ?, ?)",
                [
                    (each.turn_id, each.reply_id, embedder, each.start, each.vector)
                    for each in vectors
                    if (each.turn_id, each.reply_id) in same
                ],
            )

    def load(self, embedder: str) -> tuple[list[int], list[bytes]]:
        """Return the ids and vectors of an embedder, without those of chats in the trash."""
        with self._database.read_transaction() as db:
            rows = db.execute(
                """SELECT v.id, v.vector FROM text_vector v JOIN turn t ON t.id = v.turn_id
                JOIN conversation c ON c.id = t.conversation_id
                WHERE v.embedder = ? AND length(v.vector) > 0 AND c.trashed IS NULL
                ORDER BY v.id""",
                (embedder,),
            ).fetchall()
        return [row[0] for row in rows], [row[1] for row in rows]

    def hits(self, ids: Sequence[int], limit: int) -> list[ChatSearchHit]:
        """Return the messages and replies of vectors, each once, in the order of the vectors.

        Args:
            ids: of the vectors, the best first; those that are gone are left out.
            limit: maximum number of hits.
        """
        found: dict[tuple[int, int | None], ChatSearchHit] = {}
        with self._database.read_transaction() as db:
            for vector_id in ids:
                if len(found) == limit:
                    break
                row = db.execute(
                    """SELECT v.turn_id, v.reply_id, v.start, t.conversation_id,
                        coalesce(r.text, t.words) AS text
                    FROM text_vector v JOIN turn t ON t.id = v.turn_id
                    LEFT JOIN reply r ON r.id = v.reply_id WHERE v.id = ?""",
                    (vector_id,),
                ).fetchone()
                if row is not None and (row["turn_id"], row["reply_id"]) not in found:
                    found[row["turn_id"], row["reply_id"]] = _to_hit(db, row)
        return list(found.values())


def _text_now(db: sqlite3.Connection, text: ChatText) -> str | None:
    if text.reply_id is None:
        row = db.execute("SELECT words FROM turn WHERE id = ?", (text.turn_id,)).fetchone()
    else:
        row = db.execute("SELECT text FROM reply WHERE id = ?", (text.reply_id,)).fetchone()
    return None if row is None else as_text(row[0])


def _to_hit(db: sqlite3.Connection, row: sqlite3.Row) -> ChatSearchHit:
    text, start = as_text(row["text"]), row["start"]
    window = " ".join(text[start : start + 2 * SNIPPET_WIDTH].split())
    end = "…" * (len(window) > SNIPPET_WIDTH or start + 2 * SNIPPET_WIDTH < len(text))
    return ChatSearchHit(
        conversation_id=row["conversation_id"],
        title=chat_title(db, row["conversation_id"]),
        turn_id=row["turn_id"],
        role="user" if row["reply_id"] is None else "assistant",
        snippet="…" * (start > 0) + window[:SNIPPET_WIDTH] + end,
        spans=[],
        reply_id=row["reply_id"],
    )
