"""The frame around what a plugin draws beside the transcript; knows no plugin."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget

from chatlm.text import one_line


class PluginPanel(VerticalScroll, can_focus=True):
    """A title, the widget, and what closes it.

    Args:
        title: in the border.
        closes: the key or command that closes it.
        widget: what the plugin made.
    """

    DEFAULT_CSS = """
    PluginPanel {
        width: 40%;
        min-width: 30;
        max-width: 60;
        height: 1fr;
        margin: 0 1 0 0;
        padding: 0 1;
        border: round $foreground 30%;
        border-title-color: $text-primary;
        border-subtitle-color: $text-muted;
        background: $background;
        scrollbar-size-vertical: 1;
        scrollbar-background: $background;
        scrollbar-background-hover: $background;
        scrollbar-background-active: $background;
        scrollbar-color: $foreground 25%;
        scrollbar-color-hover: $foreground 45%;
        scrollbar-color-active: $foreground 45%;

        &:focus, &:focus-within { border: round $primary; }
        &.-over { layer: above; dock: right; width: 100%; max-width: 100%; margin: 0 1; }
    }
    """

    def __init__(self, title: str, closes: str, widget: Widget) -> None:
        super().__init__()
        self._widget = widget
        self._closes = closes
        self.border_title = Content(one_line(title, 40))

    def on_mount(self) -> None:
        """Put the widget in, in a step of its own: a plugin's may take as long as it likes."""
        self.call_later(self.mount, self._widget)

    @property
    def covers(self) -> bool:
        """Whether it stands over the transcript."""
        return self.has_class("-over")

    def place(self, *, over: bool) -> None:
        """Stand beside the transcript, or over it."""
        self.set_class(over, "-over")
        closes = "esc" if over else self._closes
        self.border_subtitle = Content(f"{closes} closes")

    def follow(self, ui: Any) -> None:
        """Let the widget look at the chat again, if it can."""
        show: Callable[[Any], object] | None = getattr(self._widget, "show", None)
        if callable(show):
            self.call_later(self._widget.call_later, partial(show, ui))

    def enter(self, step: int = 1) -> None:
        """Focus the first thing in it that can be, or with -1 the last, or else the panel."""
        inside = self._inside()
        (inside[0 if step > 0 else -1] if inside else self).focus()

    def walk(self, step: int) -> bool:
        """Go on to the next thing in it, or with -1 back; False where there is none."""
        inside = self._inside()
        here = [at for at, widget in enumerate(inside) if widget.has_focus]
        there = here[0] + step if here else -1
        if not 0 <= there < len(inside):
            return False
        inside[there].focus()
        return True

    def _inside(self) -> list[Widget]:
        """What can be focused, in order."""
        chain = self.screen.focus_chain
        return [widget for widget in chain if widget is not self and self in widget.ancestors]
