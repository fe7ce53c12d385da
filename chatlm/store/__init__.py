"""Saved chats; it knows nothing of models or screens."""

from __future__ import annotations

from chatlm.store.queries import Summary, Trashed
from chatlm.store.search import Hit
from chatlm.store.store import Store

__all__ = ["Hit", "Store", "Summary", "Trashed"]
