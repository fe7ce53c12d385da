"""Raises where the typed text is rewritten."""

from typing import Any

from chatlm import hookimpl


@hookimpl
def write_message(conversation: Any, text: str) -> str:
    raise UnicodeError("no such letter")
