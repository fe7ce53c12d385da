"""Flowing text that wraps between items, and key hints from bindings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich.style import Style as RichStyle
from textual.binding import Binding
from textual.content import Content
from textual.screen import Screen
from textual.style import Style
from textual.widgets import Static

from chatlm.tui import commands
from chatlm.tui.commands import key_name

KEY_STYLE = "bold $text"
"""Style of a key in a hint; what it does follows in the style of its place."""

HINT_GAP = Content(" · ")
"""Separator between hints."""


class PlainLinks:
    """Mixed into a widget: its links look like other text, underlined below the pointer.

    So a key hint has its own colours, whether a click on it presses the key or not.
    """

    @property
    def link_style(self) -> RichStyle:
        """No style."""
        return RichStyle.null()

    @property
    def link_style_hover(self) -> RichStyle:
        """Underlined."""
        return RichStyle(underline=True)


class Flow(Static):
    """Text items that flow over as many lines as needed."""

    DEFAULT_CSS = """
    Flow { height: auto; width: 100%; }
    """

    GAP: Content = Content("   ")
    """Separator between items."""

    def __init__(
        self,
        items: Iterable[Content] = (),
        *,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._items = list(items)

    def set_items(self, items: Iterable[Content]) -> None:
        """Show these items."""
        self._items = list(items)
        self.update(wrap_items(self._items, self.GAP, self.content_size.width))

    def on_resize(self) -> None:
        """Rewrap the items."""
        self.set_items(self._items)


def wrap_items(items: Sequence[Content], gap: Content, width: int) -> Content:
    """Wrap the items to `width` cells; a longer item gets its own line."""
    lines: list[Content] = []
    for item in items:
        if lines and lines[-1].cell_length + gap.cell_length + item.cell_length <= width:
            lines[-1] = lines[-1] + gap + item
        else:
            lines.append(item)
    return Content("\n").join(lines)


class Hints(PlainLinks, Flow):
    """Hints of the screen's visible and enabled bindings, such as `p pin · d drop`."""

    DEFAULT_CSS = """
    Hints { color: $text-muted; }
    """

    GAP = HINT_GAP

    def on_mount(self) -> None:
        """Update when the bindings change."""
        self.screen.bindings_updated_signal.subscribe(self, self._update_hints)
        self._update_hints(self.screen)

    def _update_hints(self, screen: Screen[object]) -> None:
        active = screen.active_bindings.values()
        self.set_items(key_hints(each.binding for each in active if each.enabled))


def key_hints(bindings: Iterable[Binding]) -> list[Content]:
    """Return a hint for each action: its first key and its description."""
    shown: dict[str, Binding] = {}
    for binding in bindings:
        if binding.show:
            shown.setdefault(binding.action, binding)
    return [_key_hint(binding) for binding in shown.values()]


def _key_hint(binding: Binding) -> Content:
    click = Style.from_meta({"@click": f"app.simulate_key({binding.key!r})"})
    key = binding.key_display or key_name(binding.key)
    return hint(key, binding.description).stylize(click)


def hint(key: str, label: str) -> Content:
    """Return a key and what it does, in the one style that all hints have."""
    return Content.assemble((key, KEY_STYLE), f" {label}")


def with_commands(text: str) -> Content:
    """Return a text of our own, in which `` `what is typed` `` stands out like a key."""
    parts = re.split("`([^`]*)`", text)
    return Content.assemble(
        *((part, KEY_STYLE) if at % 2 else part for at, part in enumerate(parts))
    )


def command_hint(name: str, label: str) -> Content:
    """Return the key of a command and a label; a click presses the key."""
    key = commands.ALL[name].key.split(",")[0]
    click = Style.from_meta({"@click": f"app.simulate_key({key!r})"})
    return hint(key_name(key), label).stylize(click)
