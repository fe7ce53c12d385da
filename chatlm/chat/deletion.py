"""Deletes chats for good, saved and incognito ones, and announces it to plugins."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import count

from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store

_first_ids = count(2**40, 2**20)


def open_memory_store() -> Store:
    """Open a store in memory, whose ids no saved chat and no other such store has, so that a plugin
    never takes one of its chats for another."""
    return Store(None, first_id=next(_first_ids))


def delete_chats(store: Store, chat_ids: Iterable[int], plugins: PluginHost) -> None:
    """Delete chats for good, whether in the trash or not.

    Raises:
        StoreError: a chat does not exist, or the database cannot be written.
    """
    for chat_id in chat_ids:
        store.delete(chat_id)
        plugins.call_hook("chat_deleted", conversation_id=chat_id)


def drop_incognito(store: Store, plugins: PluginHost) -> None:
    """Close a store of incognito chats, with which they are gone."""
    chat_ids = [chat.id for chat in store.list_conversations()]
    store.close()
    for chat_id in chat_ids:
        plugins.call_hook("chat_deleted", conversation_id=chat_id)


def empty_trash(store: Store, before: datetime, plugins: PluginHost) -> None:
    """Delete for good what was put into the trash before a time.

    Raises:
        StoreError: the database cannot be read or written.
    """
    expired = [entry.id for entry in store.list_trash() if entry.deleted < before]
    if store.empty_trash(before):
        for chat_id in expired:
            plugins.call_hook("chat_deleted", conversation_id=chat_id)
