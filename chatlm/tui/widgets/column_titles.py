"""Titles over the columns of a list, in one look everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static


class ColumnTitles(Static):
    """One quiet line; each title is underlined, the gaps between them are not.

    Args:
        columns: each title with the cells of its column; blanks before a title indent it, a
            negative width aligns it to the right.
    """

    DEFAULT_CSS = """
    ColumnTitles { height: 1; color: $text-muted; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self, columns: Sequence[tuple[str, int]]) -> None:
        super().__init__(column_titles(columns), classes="titles")

    def show(self, columns: Sequence[tuple[str, int]]) -> None:
        """Show other columns, or the same at other widths."""
        self.update(column_titles(columns))


def column_titles(columns: Sequence[tuple[str, int]]) -> Content:
    """Return the titles, each padded to its column."""
    cells: list[Content] = []
    for title, width in columns:
        words = title.strip()
        lead = abs(width) - len(words) if width < 0 else len(title) - len(title.lstrip())
        rest = abs(width) - lead - len(words)
        cells.append(Content.assemble(" " * lead, (words, "underline"), " " * rest))
    return Content("").join(cells)
