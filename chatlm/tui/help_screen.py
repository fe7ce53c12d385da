"""All keys, from the bindings themselves."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from chatlm.tui import keys


class HelpScreen(ModalScreen[None]):
    """A card over the chat; any key or click closes it."""

    DEFAULT_CSS = """
    HelpScreen {
        align: center middle;

        & > VerticalScroll {
            width: 56;
            max-width: 100%;
            height: auto;
            max-height: 100%;
            padding: 1 2;
            border: round $primary;
            border-title-color: $text-primary;
            background: $surface;
        }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1,enter", "dismiss", "Close", show=False)
    ]

    def compose(self) -> ComposeResult:
        """One line a key."""
        lines = [
            Content.assemble(
                (f"{keys.name(binding):<11}", "bold $text-primary"), binding.description
            )
            for binding in (*keys.COMPOSER, *keys.CHAT, *keys.APP)
        ]
        with VerticalScroll() as card:
            card.border_title = "Keys"
            yield Static(Content("\n").join(lines))

    def on_click(self, event: events.Click) -> None:
        """A click closes it too."""
        event.stop()
        self.dismiss()
