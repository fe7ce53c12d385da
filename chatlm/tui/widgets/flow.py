"""Short texts one after the other, never broken inside; a new line begins where one ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from textual.content import Content
from textual.widgets import Static


class Flow(Static):
    """As many lines as its items take at its width."""

    DEFAULT_CSS = """
    Flow { height: auto; width: 100%; }
    """

    GAP: Content = Content("   ")
    """Between two items of a line."""

    def __init__(self, items: Iterable[Content] = (), *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._items = list(items)

    def fill(self, items: Iterable[Content]) -> None:
        """Show these items."""
        self._items = list(items)
        self.update(flowing(self._items, self.GAP, self.content_size.width))

    def on_resize(self) -> None:
        """Break the lines anew."""
        self.fill(self._items)


def flowing(items: Sequence[Content], gap: Content, width: int) -> Content:
    """The items in lines of at most `width` cells; a longer item has a line of its own."""
    lines: list[Content] = []
    for item in items:
        if lines and lines[-1].cell_length + gap.cell_length + item.cell_length <= width:
            lines[-1] = lines[-1] + gap + item
        else:
            lines.append(item)
    return Content("\n").join(lines)
