"""Save an incognito chat."""

from __future__ import annotations

import dataclasses

from chatlm.store.store import Store


def copy_incognito_chats(source: Store, target: Store, conversation_id: int, draft: str) -> None:
    """Copy all of an incognito store, forks too, to the saved chats.

    Args:
        source: the incognito store.
        target: the saved chats.
        conversation_id: the open chat, as numbered in `source`.
        draft: the text in the composer, saved with that chat.

    Raises:
        StoreError: the chats cannot be written.
    """
    copies: dict[int | None, int] = {}
    for each in sorted(chat.id for chat in source.list_conversations()):
        chat = source.conversation(each)
        chat = dataclasses.replace(chat, forked_from=copies.get(chat.forked_from))
        copy = target.add_conversation(
            chat,
            source.passages,
            source.annotations,
            source.provenance,
            source.traces,
            source.find_blob,
        )
        copies[each] = copy.id
    target.save_draft(copies[conversation_id], draft)
