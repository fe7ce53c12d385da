"""SQL that reads chats, inside the caller's transaction, and duplicate detection for imports."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from chatlm.errors import StoreError
from chatlm.store import rows
from chatlm.store.blobs import hashes_in
from chatlm.store.rows import (
    as_text,
    format_timestamp,
    header_from_row,
    load_project,
    parse_timestamp,
    reply_from_row,
    short_title,
    turns_from_rows,
    utf8_safe,
)
from chatlm.types.conversations import Conversation, ConversationHeader, Turn
from chatlm.types.messages import Annotation, Passage
from chatlm.types.provenance import Provenance, Trace
from chatlm.types.replies import Reply

MAX_ROW_ID = 2**63 - 1


CHAT_LIST_SQL = """
    SELECT c.id, c.title, c.updated, c.pinned, c.source, c.forked_from, c.project, c.tags,
        (SELECT r.model FROM turn t JOIN reply r ON r.id = t.chosen
         WHERE t.conversation_id = c.id ORDER BY t.position DESC LIMIT 1) AS model,
        (SELECT count(*) FROM turn t WHERE t.conversation_id = c.id) AS turns,
        CASE c.title WHEN '' THEN
            (SELECT substr(t.words, 1, 400) FROM turn t
             WHERE t.conversation_id = c.id ORDER BY t.position LIMIT 1)
        END AS first_message,
        (SELECT NOT EXISTS (SELECT 1 FROM reply r
                            WHERE r.id = t.chosen AND r.stop_reason IS NOT NULL)
         FROM turn t WHERE t.conversation_id = c.id ORDER BY t.position DESC LIMIT 1
        ) AS unfinished
    FROM conversation c WHERE c.trashed IS NULL AND c.source <> ?
    ORDER BY c.pinned DESC, c.updated DESC, c.id DESC LIMIT ? OFFSET ?
"""


TRASH_SQL = """
    SELECT c.id, c.title, c.trashed,
        (SELECT count(*) FROM turn t WHERE t.conversation_id = c.id) AS turns,
        (SELECT substr(t.words, 1, 400) FROM turn t
         WHERE t.conversation_id = c.id ORDER BY t.position LIMIT 1) AS first_message
    FROM conversation c WHERE c.trashed IS NOT NULL
    ORDER BY c.trashed DESC, c.id DESC LIMIT ?
"""


TITLE_SQL = """
    SELECT c.title,
        (SELECT substr(t.words, 1, 400) FROM turn t
         WHERE t.conversation_id = c.id ORDER BY t.position LIMIT 1) AS first_message
    FROM conversation c WHERE c.id = ?
"""


RECENT_INPUTS_SQL = """
    SELECT t.words FROM turn t JOIN conversation c ON c.id = t.conversation_id
    WHERE c.trashed IS NULL ORDER BY t.created DESC, t.id DESC
"""


DAMAGED_TITLE = "(damaged)"
"""Title in lists of a chat whose entry cannot be read; opening it says why."""


_UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ChatListEntry:
    """One entry of the chat list."""

    id: int
    title: str
    """The beginning of the first message if the chat has no title."""
    updated: datetime
    turns: int
    unfinished: bool
    """Whether the last turn has no reply, or one that was growing when the program ended."""
    pinned: bool = False
    model: str = ""
    """What wrote the last reply; empty for nothing."""
    forked: bool = False
    """Whether it was copied from a chat that still exists."""
    source: str = ""
    """`ask` for a chat that `chatlm ask` began; else empty."""
    project: str = ""
    """Name of the project that it belongs to; empty for none."""
    tags: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "id": self.id,
            "title": self.title,
            "updated": self.updated.isoformat(),
            "turns": self.turns,
            "unfinished": self.unfinished,
            "pinned": self.pinned,
            "project": self.project,
            "tags": list(self.tags),
        }


@dataclass(frozen=True)
class TrashEntry:
    """One chat in the trash."""

    id: int
    title: str
    """As in `ChatListEntry`."""
    deleted: datetime
    turns: int

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "id": self.id,
            "title": self.title,
            "deleted": self.deleted.isoformat(),
            "turns": self.turns,
        }


def list_chat_entries(
    db: sqlite3.Connection, limit: int | None, offset: int, without: str = "-"
) -> list[ChatListEntry]:
    """List chats, pinned ones first, then last changed first.

    Args:
        db: the database.
        limit: how many; None for all.
        offset: how many to skip.
        without: the source of chats to leave out.
    """
    found = db.execute(CHAT_LIST_SQL, (without, -1 if limit is None else limit, offset))
    return [_list_entry(row) for row in found]


def _list_entry(row: sqlite3.Row) -> ChatListEntry:
    """Convert a row; one that is damaged must not hide the others."""
    try:
        title, updated = _title(row), parse_timestamp(row["updated"])
    except StoreError:
        title, updated = DAMAGED_TITLE, _UNKNOWN_TIME
    return ChatListEntry(
        id=row["id"],
        title=title,
        updated=updated,
        turns=row["turns"],
        unfinished=bool(row["unfinished"]),
        pinned=bool(row["pinned"]),
        model=as_text(row["model"] or ""),
        forked=row["forked_from"] is not None,
        source=as_text(row["source"]),
        project=project_name(as_text(row["project"])),
        tags=tuple(as_text(row["tags"]).split()),
    )


def project_name(stored: str) -> str:
    """Return a project's name; a damaged one is told when its chat is opened."""
    try:
        project = load_project(stored)
    except (ValueError, TypeError, LookupError):
        return ""
    return project.name if project else ""


def _title(row: sqlite3.Row) -> str:
    first = row["first_message"]
    return short_title(as_text(row["title"]), None if first is None else as_text(first))


def chat_ids(db: sqlite3.Connection) -> list[int]:
    """Return the ids of the chats that are not in the trash."""
    return [row["id"] for row in db.execute("SELECT id FROM conversation WHERE trashed IS NULL")]


def list_trash_entries(db: sqlite3.Connection, limit: int | None) -> list[TrashEntry]:
    """List the trash, last deleted first; `limit` None lists all."""
    found = db.execute(TRASH_SQL, (-1 if limit is None else limit,))
    return [_trash_entry(row) for row in found]


def _trash_entry(row: sqlite3.Row) -> TrashEntry:
    try:
        title, deleted = _title(row), parse_timestamp(row["trashed"])
    except StoreError:
        title, deleted = DAMAGED_TITLE, _UNKNOWN_TIME
    return TrashEntry(id=row["id"], title=title, deleted=deleted, turns=row["turns"])


def chat_title(db: sqlite3.Connection, conversation_id: int) -> str:
    """Return a chat's title, else the beginning of its first message; also for a trashed chat."""
    row = _fetch_one(db, TITLE_SQL, conversation_id)
    if row is None:
        raise _chat_not_found(conversation_id)
    return _title(row)


def load_conversation(db: sqlite3.Connection, conversation_id: int) -> Conversation:
    """Load a chat with its turns and replies, or raise a StoreError."""
    header = load_header(db, conversation_id)
    turns = db.execute(
        "SELECT * FROM turn WHERE conversation_id = ? ORDER BY position", (conversation_id,)
    )
    replies = db.execute(
        "SELECT r.* FROM turn t JOIN reply r ON r.turn_id = t.id"
        " WHERE t.conversation_id = ? ORDER BY t.position, r.version",
        (conversation_id,),
    )
    labels = db.execute(
        "SELECT a.* FROM turn t JOIN annotation a ON a.turn_id = t.id"
        " WHERE t.conversation_id = ? ORDER BY a.id",
        (conversation_id,),
    )
    pictures = db.execute(
        "SELECT p.turn_id, p.images FROM turn t JOIN passage p ON p.turn_id = t.id"
        " WHERE t.conversation_id = ? AND p.images IS NOT NULL ORDER BY p.id",
        (conversation_id,),
    )
    chat = Conversation(conversation_id, turns=turns_from_rows(turns, replies, labels, pictures))
    return chat.with_header(header)


def load_header(db: sqlite3.Connection, conversation_id: int) -> ConversationHeader:
    """Load a chat without its turns, or raise a StoreError."""
    check_chat(db, conversation_id)
    row = db.execute("SELECT * FROM conversation WHERE id = ?", (conversation_id,)).fetchone()
    return header_from_row(row)


def load_turn(db: sqlite3.Connection, turn_id: int) -> Turn:
    """Load a turn with its replies, or raise a StoreError."""
    row = _fetch_one(db, "SELECT * FROM turn WHERE id = ?", turn_id)
    if row is None:
        raise _not_found("turn", turn_id)
    replies = db.execute("SELECT * FROM reply WHERE turn_id = ? ORDER BY version", (turn_id,))
    labels = db.execute("SELECT * FROM annotation WHERE turn_id = ? ORDER BY id", (turn_id,))
    pictures = db.execute(
        "SELECT turn_id, images FROM passage WHERE turn_id = ? AND images IS NOT NULL ORDER BY id",
        (turn_id,),
    )
    return turns_from_rows([row], replies, labels, pictures)[0]


def load_reply(db: sqlite3.Connection, reply_id: int) -> Reply:
    """Load a reply, or raise a StoreError."""
    row = _fetch_one(db, "SELECT * FROM reply WHERE id = ?", reply_id)
    if row is None:
        raise _not_found("reply", reply_id)
    return reply_from_row(row)


def load_draft(db: sqlite3.Connection, conversation_id: int | None) -> str:
    """Load the unsent text of a chat, or of the new chat (None); empty for none."""
    row = db.execute(
        "SELECT text FROM draft WHERE conversation_id IS ?", (conversation_id,)
    ).fetchone()
    return "" if row is None else str(row["text"])


def recent_inputs(db: sqlite3.Connection, limit: int) -> list[str]:
    """Return the newest distinct inputs, newest first."""
    inputs: dict[str, None] = {}
    for row in db.execute(RECENT_INPUTS_SQL):
        inputs[as_text(row["words"])] = None
        if len(inputs) >= limit:
            break
    return list(inputs)


def load_provenance(db: sqlite3.Connection, reply_id: int) -> Provenance | None:
    """Load the provenance of a reply, or raise a StoreError if it is damaged."""
    row = db.execute("SELECT content FROM provenance WHERE reply_id = ?", (reply_id,)).fetchone()
    if row is None:
        return None
    provenance = rows.load_provenance(row["content"])
    if provenance is None:
        raise StoreError(
            f"The provenance of reply {reply_id} is damaged.",
            hint="The reply itself is intact; regenerate it to get a new one.",
        )
    return provenance


def load_passages(db: sqlite3.Connection, turn_id: int) -> list[Passage]:
    """Load the passages of a turn, in order."""
    found = db.execute("SELECT * FROM passage WHERE turn_id = ? ORDER BY id", (turn_id,))
    return [rows.passage_from_row(row) for row in found]


def load_annotations(db: sqlite3.Connection, turn_id: int) -> list[tuple[int | None, Annotation]]:
    """Load the labels of a turn, each with its reply's id."""
    found = db.execute("SELECT * FROM annotation WHERE turn_id = ? ORDER BY id", (turn_id,))
    return [rows.annotation_from_row(row) for row in found]


def load_traces(db: sqlite3.Connection, turn_id: int) -> list[Trace]:
    """Load the traces of plugin calls for a turn, in order."""
    found = db.execute("SELECT * FROM trace WHERE turn_id = ? ORDER BY rowid", (turn_id,))
    return [rows.trace_from_row(row) for row in found]


def check_chat(
    db: sqlite3.Connection, conversation_id: int, *, allow_trashed: bool = False
) -> None:
    """Raise a StoreError if the chat is missing or, without `allow_trashed`, in the trash."""
    row = _fetch_one(db, "SELECT trashed FROM conversation WHERE id = ?", conversation_id)
    if row is None:
        raise _chat_not_found(conversation_id)
    if row["trashed"] is not None and not allow_trashed:
        raise StoreError(
            f"chat {conversation_id} was deleted",
            hint=f"Bring it back: chatlm chats restore {conversation_id}",
        )


def check_turn(db: sqlite3.Connection, turn_id: int, reply_id: int | None = None) -> None:
    """Raise a StoreError if the turn is missing or the reply is not one of its replies."""
    if _fetch_one(db, "SELECT id FROM turn WHERE id = ?", turn_id) is None:
        raise _not_found("turn", turn_id)
    if reply_id is not None and turn_id_of_reply(db, reply_id) != turn_id:
        raise StoreError(f"turn {turn_id} has no reply {reply_id}")


def turn_id_of_reply(db: sqlite3.Connection, reply_id: int) -> int:
    """Return the id of a reply's turn, or raise a StoreError."""
    row = _fetch_one(db, "SELECT turn_id FROM reply WHERE id = ?", reply_id)
    if row is None:
        raise _not_found("reply", reply_id)
    return int(row["turn_id"])


def referenced_blobs(db: sqlite3.Connection) -> set[str]:
    """Return the hashes of the images in all chats, those in the trash included."""
    found = db.execute(
        "SELECT parts FROM turn WHERE parts IS NOT NULL"
        " UNION ALL SELECT steps FROM reply WHERE steps IS NOT NULL"
        " UNION ALL SELECT images FROM passage WHERE images IS NOT NULL"
    )
    return {sha256 for row in found for sha256 in hashes_in(as_text(row[0]))}


def list_fork_titles(db: sqlite3.Connection) -> set[str]:
    """Return the titles that end like those of forks."""
    found = db.execute("SELECT title FROM conversation WHERE title GLOB '* (fork*)'")
    return {row["title"] for row in found}


def _fetch_one(db: sqlite3.Connection, query: str, row_id: int) -> sqlite3.Row | None:
    if not 0 < row_id <= MAX_ROW_ID:
        return None
    row: sqlite3.Row | None = db.execute(query, (row_id,)).fetchone()
    return row


def _chat_not_found(conversation_id: int) -> StoreError:
    return StoreError(f"no chat {conversation_id}", hint="List your chats: chatlm chats list")


def _not_found(kind: str, row_id: int) -> StoreError:
    return StoreError(f"no {kind} {row_id}", hint="Its chat may have been deleted meanwhile.")


def find_duplicate(
    db: sqlite3.Connection, imported: Conversation, created_known: bool
) -> int | None:
    """Find the chat that already contains `imported`, as `Store.find_duplicate` says."""
    if created_known:
        found = db.execute(
            "SELECT id FROM conversation WHERE created = ? AND trashed IS NULL ORDER BY id",
            (format_timestamp(imported.created),),
        )
    else:
        first, last = imported.turns[0].user.text, imported.turns[-1].user.text
        found = db.execute(
            "SELECT c.id FROM turn t JOIN conversation c ON c.id = t.conversation_id"
            " WHERE t.position = 0 AND substr(t.content, 1, 64) = substr(?1, 1, 64)"
            " AND c.trashed IS NULL AND c.system = ?2 AND EXISTS (SELECT 1 FROM turn l"
            "    WHERE l.conversation_id = c.id AND l.position = ?3 AND l.content = ?4)"
            " ORDER BY c.id",
            (
                utf8_safe(first),
                utf8_safe(imported.system),
                len(imported.turns) - 1,
                utf8_safe(last),
            ),
        )
    chats = (load_conversation(db, row["id"]) for row in found)
    return next((chat.id for chat in chats if _contains(chat, imported, created_known)), None)


def _contains(chat: Conversation, imported: Conversation, created_known: bool) -> bool:
    """Whether `chat` starts with the user messages of `imported` and, unless `created_known`, has
    its replies too."""
    if len(chat.turns) < len(imported.turns):
        return False
    return all(
        mine.user.text == utf8_safe(theirs.user.text)
        and (
            created_known
            or {utf8_safe(reply.text) for reply in theirs.replies}
            <= {reply.text for reply in mine.replies}
        )
        for mine, theirs in zip(chat.turns, imported.turns, strict=False)
    )
