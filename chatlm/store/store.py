"""Saved chats as `Store`: each write is on disk when its call returns; it knows no model."""

from __future__ import annotations

from chatlm.store.chats import Chats
from chatlm.store.found import Found
from chatlm.store.turns import Turns


class Store(Chats, Turns, Found):
    """The chats of one database file; every method may be called from any thread.

    Text is kept as it is, except that a lone surrogate, which UTF-8 cannot hold, becomes U+FFFD.

    Args:
        path: the database, made if absent; None keeps everything in memory (incognito).

    Raises:
        StoreError: from any method: SQLite failed, what an id names is not there, or it is a chat
            in the trash.
    """
