"""Flowing text; key hints from bindings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from textual.binding import Binding
from textual.content import Content
from textual.screen import Screen
from textual.style import Style
from textual.widgets import Static

from chatlm.tui.commands import key_name


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

    def set_items(self, items: Iterable[Content]) -> None:
        """Show these items."""
        self._items = list(items)
        self.update(wrap_items(self._items, self.GAP, self.content_size.width))

    def on_resize(self) -> None:
        """Break the lines anew."""
        self.set_items(self._items)


def wrap_items(items: Sequence[Content], gap: Content, width: int) -> Content:
    """The items in lines of at most `width` cells; a longer item has a line of its own."""
    lines: list[Content] = []
    for item in items:
        if lines and lines[-1].cell_length + gap.cell_length + item.cell_length <= width:
            lines[-1] = lines[-1] + gap + item
        else:
            lines.append(item)
    return Content("\n").join(lines)


class Hints(Flow):
    """Every binding of the screen that is shown and enabled, such as `p pin · d drop`."""

    DEFAULT_CSS = """
    Hints {
        color: $text-muted;
        link-style: none;
        link-color: $text-muted;
        link-style-hover: underline;
        link-background-hover: $surface;
        link-color-hover: $text;
    }
    """

    GAP = Content(" · ")

    def on_mount(self) -> None:
        """Follow the bindings."""
        self.screen.bindings_updated_signal.subscribe(self, self._update_hints)
        self._update_hints(self.screen)

    def _update_hints(self, screen: Screen[object]) -> None:
        active = screen.active_bindings.values()
        self.set_items(key_hints(each.binding for each in active if each.enabled))


def key_hints(bindings: Iterable[Binding]) -> list[Content]:
    """One part for each action that is shown: its first key and what it does."""
    shown: dict[str, Binding] = {}
    for binding in bindings:
        if binding.show:
            shown.setdefault(binding.action, binding)
    return [_key_hint(binding) for binding in shown.values()]


def _key_hint(binding: Binding) -> Content:
    click = Style.from_meta({"@click": f"app.simulate_key({binding.key!r})"})
    text = f"{binding.key_display or key_name(binding.key)} {binding.description}"
    return Content.assemble((text, click))
