"""Deletes chats for good, saved and incognito ones, and announces it to plugins."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store

INCOGNITO_ID = 0
"""Stands for a chat in memory, whose own id a saved chat may have too."""


def delete_chats(store: Store, chat_ids: Iterable[int], plugins: PluginHost) -> None:
    """Delete chats for good, whether in the trash or not.

    Raises:
        StoreError: a chat does not exist, or the database cannot be written.
    """
    for chat_id in chat_ids:
        store.delete(chat_id)
        announced = chat_id if store.on_disk else INCOGNITO_ID
        plugins.call_hook("chat_deleted", conversation_id=announced)


def drop_incognito(store: Store, plugins: PluginHost) -> None:
    """Close the store of incognito chats, with which they are gone."""
    store.close()
    plugins.call_hook("chat_deleted", conversation_id=INCOGNITO_ID)


def empty_trash(store: Store, before: datetime, plugins: PluginHost) -> None:
    """Delete for good what was put into the trash before a time.

    Raises:
        StoreError: the database cannot be read or written.
    """
    expired = [entry.id for entry in store.list_trash() if entry.deleted < before]
    if store.empty_trash(before):
        for chat_id in expired:
            plugins.call_hook("chat_deleted", conversation_id=chat_id)
