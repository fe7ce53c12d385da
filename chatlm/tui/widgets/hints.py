"""The keys that work now, on a line that can be clicked; read from the bindings themselves."""

from __future__ import annotations

from collections.abc import Iterable

from textual.binding import Binding
from textual.content import Content
from textual.screen import Screen
from textual.style import Style

from chatlm.tui.commands import key_name
from chatlm.tui.widgets.flow import Flow


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
        self.screen.bindings_updated_signal.subscribe(self, self._show)
        self._show(self.screen)

    def _show(self, screen: Screen[object]) -> None:
        active = screen.active_bindings.values()
        self.fill(hints(each.binding for each in active if each.enabled))


def hints(bindings: Iterable[Binding]) -> list[Content]:
    """One part for each action that is shown: its first key and what it does."""
    shown: dict[str, Binding] = {}
    for binding in bindings:
        if binding.show:
            shown.setdefault(binding.action, binding)
    return [_hint(binding) for binding in shown.values()]


def _hint(binding: Binding) -> Content:
    click = Style.from_meta({"@click": f"app.simulate_key({binding.key!r})"})
    text = f"{binding.key_display or key_name(binding.key)} {binding.description}"
    return Content.assemble((text, click))
