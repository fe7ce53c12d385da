"""Chats from files: chatlm's own export, messages as trainers take them, ChatGPT's export."""

from __future__ import annotations

from chatlm.store.importing.reading import FORMATS, Bad, Format, read
from chatlm.store.importing.values import Read

__all__ = ["FORMATS", "Bad", "Format", "Read", "read"]
