"""Cards of artifacts, which say how they were made, as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chatlm.text import one_line

MAX_TITLE, MAX_LINE = 20, 800
"""Characters of a title and of a value that are shown."""


def card_lines(rows: Iterable[tuple[str, Any]]) -> list[str]:
    """Return rows as aligned lines of a title and a value; empty values are left out.

    >>> card_lines([("Model", "soup"), ("Licence", ""), ("Cost", {"steps": 1200, "loss": 0.12345})])
    ['Model  soup', 'Cost   steps 1,200, loss 0.1235']

    Args:
        rows: titles with texts, numbers, and lists and mappings of them, at any depth.
    """
    shown = [
        (one_line(title, MAX_TITLE), format_value(value))
        for title, value in rows
        if value is not None and value not in ("", (), [], {})
    ]
    width = max((len(title) for title, _ in shown), default=0)
    return [f"{title:<{width}}  {one_line(text, MAX_LINE)}" for title, text in shown]


def table_rows(table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the entries of a mapping as rows, `sha256_of_data` as `Sha256 of data`."""
    return [(key.replace("_", " ").capitalize(), value) for key, value in table.items()]


def format_value(value: Any) -> str:
    """Return a value as one would write it in a sentence.

    Whole numbers have thousands separators, others four digits; lists and mappings are joined by
    commas.
    """
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key.replace('_', ' ')} {format_value(each)}" for key, each in value.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
