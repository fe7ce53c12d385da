"""What both screens share: a card of two sides, list or form and preview."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from chatlm import PluginCard


class TemplateCard(PluginCard):
    """Two sides beside each other, one above the other where it is narrow."""

    DEFAULT_CSS = """
    TemplateCard {
        & > .card { width: 150; height: 44; }
        & .sides { height: 1fr; layout: horizontal; }
        & .sides > .left { width: 5fr; height: 1fr; }
        & .sides > .right {
            width: 6fr;
            height: 1fr;
            margin: 0 0 0 1;
            padding: 0 0 0 1;
            border-left: vkey $foreground 20%;
        }
        &.-narrow .sides { layout: vertical; }
        &.-narrow .sides > .left { width: 1fr; height: 5fr; }
        &.-narrow .sides > .right {
            width: 1fr;
            height: 6fr;
            margin: 0;
            padding: 0;
            border-left: none;
            border-top: hkey $foreground 20%;
        }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("pageup", "turn_page(-1)", "back", show=False, priority=True),
        Binding("pagedown", "turn_page(1)", "read on", priority=True),
    ]

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]

    def action_turn_page(self, pages: int) -> None:
        """Turn the pages of what is looked at, while the keys go elsewhere."""
        preview = self.query_one("#preview")
        if pages > 0:
            preview.scroll_page_down(animate=False)
        else:
            preview.scroll_page_up(animate=False)
