"""Versions of replies as rows of pairs: the one with which the user went on, and the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatlm import Conversation, Image, Message, StopReason, Store, Turn


def read_versions(database: Path) -> list[dict[str, Any]]:
    """Return a row for each version of a reply that the user left for another one.

    Only turns after which the user wrote on count, since the choice may be open before. Versions
    that were stopped, cut short or used tools are left out, and turns after a summarised one. A
    prompt is what the model would read, so without dropped turns.

    Args:
        database: of the saved chats; it need not exist. Chats in the trash are left out.

    Raises:
        StoreError: SQLite failed.
    """
    if not database.exists():
        return []
    with Store(database) as store:
        ids = [entry.id for entry in store.list_conversations()]
        return [row for number in reversed(ids) for row in version_rows(store.conversation(number))]


def version_rows(chat: Conversation) -> Iterator[dict[str, Any]]:
    """Yield a row of `prompt`, `chosen` and `rejected` for each version that was left."""
    for turn in chat.turns[:-1]:
        chosen = turn.reply
        if chosen is None or not _is_whole(turn, chosen.id):
            continue
        prompt = [*chat.messages(before=turn.position), turn.user]
        if not _is_plain(prompt):
            continue
        for other in turn.replies:
            is_same = other.text.strip() == chosen.text.strip()  # the chosen one, too
            if not is_same and _is_whole(turn, other.id):
                yield {
                    "prompt": [_row(message) for message in prompt],
                    "chosen": [{"role": "assistant", "content": chosen.text}],
                    "rejected": [{"role": "assistant", "content": other.text}],
                }


def _is_whole(turn: Turn, reply_id: int) -> bool:
    """Return whether a version is one output of the model that ended by itself, with a text."""
    (reply,) = (reply for reply in turn.replies if reply.id == reply_id)
    ended = reply.stop_reason is StopReason.END and reply.error is None
    return ended and len(reply.steps) == 1 and bool(reply.text.strip())


def _is_plain(prompt: list[Message]) -> bool:
    """Return whether messages have texts, and the user's and the assistant's alternate."""
    roles = [message.role for message in prompt]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    alternate = turns == ["user", "assistant"] * (len(turns) // 2) + ["user"]
    return alternate and all(message.text.strip() for message in prompt)


def _row(message: Message) -> dict[str, Any]:
    """Return a message in OpenAI's form; one with images has a list of parts, as those of votes."""
    if any(isinstance(part, Image) for part in message.parts):
        return {"role": message.role, "content": [{"type": "text", "text": message.text}]}
    return {"role": message.role, "content": message.text}
