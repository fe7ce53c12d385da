"""Arguments of tools' calls as text for the screen."""

from __future__ import annotations

import json

from chatlm.text import escape_controls, one_line
from chatlm.tui.formatting import join_parts

MAX_ARGUMENTS = 4000
"""Characters shown of the arguments."""

MAX_SUMMARY = 300
"""Characters of the arguments on one line, which is cut at the width of the screen."""


def summarise_arguments(text: str) -> str:
    """Return the arguments of a call on one line, such as `path=notes.md · lines=3`."""
    values = _parse(text)
    if values is None:
        return one_line(text, MAX_SUMMARY)
    shown = join_parts(*(f"{name}={_short(value)}" for name, value in values.items()))
    return one_line(shown, MAX_SUMMARY)


def describe_arguments(text: str) -> str:
    """Return the arguments of a call in lines, each with name and value."""
    values = _parse(text)
    if values is None:
        return escape_controls(text[:MAX_ARGUMENTS])
    lines = [f"{name}: {_long(value)}" for name, value in values.items()]
    shown = "\n".join(lines)
    if len(shown) > MAX_ARGUMENTS:
        shown = f"{shown[:MAX_ARGUMENTS]}\n… {len(shown) - MAX_ARGUMENTS:,} more characters"
    return escape_controls(shown)


def _parse(text: str) -> dict[str, object] | None:
    try:
        values = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _long(value: object) -> str:
    text = _short(value)
    return f"\n{text}" if "\n" in text else text
