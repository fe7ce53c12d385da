"""Whether a chat from elsewhere is stored already; it begins and ends no transaction."""

from __future__ import annotations

import sqlite3

from chatlm.messages import Conversation
from chatlm.store.queries import conversation
from chatlm.store.rows import stamp, storable


def find_same(db: sqlite3.Connection, wanted: Conversation, timed: bool) -> int | None:
    """The chat that `wanted` would only repeat; see `Store.find_same`."""
    if timed:
        found = db.execute(
            "SELECT id FROM conversation WHERE created = ? AND trashed IS NULL ORDER BY id",
            (stamp(wanted.created),),
        )
    else:
        first, last = wanted.turns[0].user.content, wanted.turns[-1].user.content
        found = db.execute(
            "SELECT c.id FROM turn t JOIN conversation c ON c.id = t.conversation_id"
            " WHERE t.position = 0 AND substr(t.content, 1, 64) = substr(?1, 1, 64)"
            " AND c.trashed IS NULL AND c.system = ?2 AND EXISTS (SELECT 1 FROM turn l"
            "    WHERE l.conversation_id = c.id AND l.position = ?3 AND l.content = ?4)"
            " ORDER BY c.id",
            (storable(first), storable(wanted.system), len(wanted.turns) - 1, storable(last)),
        )
    chats = (conversation(db, row["id"]) for row in found)
    return next((chat.id for chat in chats if _holds(chat, wanted, timed)), None)


def _holds(chat: Conversation, wanted: Conversation, timed: bool) -> bool:
    """Whether all user messages of `wanted` begin `chat`, and unless `timed`, all replies too."""
    if len(chat.turns) < len(wanted.turns):
        return False
    return all(
        mine.user.content == storable(theirs.user.content)
        and (
            timed
            or {storable(reply.text) for reply in theirs.replies}
            <= {reply.text for reply in mine.replies}
        )
        for mine, theirs in zip(chat.turns, wanted.turns, strict=False)
    )
