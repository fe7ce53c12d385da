"""What both screens share: a framed card over the chat with its keys at the foot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Footer, Static

from chatlm import ChatlmError, visible


class TemplateCard(ModalScreen[None]):
    """A title in the border, `body`, a line for what went wrong, and the keys."""

    DEFAULT_CSS = """
    TemplateCard {
        align: center middle;

        & > .card {
            width: 150;
            max-width: 100%;
            height: 44;
            max-height: 100%;
            padding: 0 1;
            border: round $primary;
            border-title-color: $text-primary;
            background: $surface;
        }
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
        & .problem { display: none; height: auto; color: $text-error; }
        & .problem.-shown { display: block; }
        & Footer { background: $surface; margin: 0; }
        & FooterKey { background: $surface; }
        & FooterKey .footer-key--key { background: $surface; }
        & FooterKey .footer-key--description { background: $surface; color: $text-muted; }
        & * {
            scrollbar-size-vertical: 1;
            scrollbar-background: $surface;
            scrollbar-background-hover: $surface;
            scrollbar-background-active: $surface;
            scrollbar-color: $foreground 25%;
            scrollbar-color-hover: $foreground 45%;
            scrollbar-color-active: $foreground 45%;
        }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("pageup", "turn_page(-1)", "back", show=False, priority=True),
        Binding("pagedown", "turn_page(1)", "read on", priority=True),
    ]

    def __init__(self, title: str) -> None:
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]
        self._title = title

    def body(self) -> Iterable[Widget]:
        """The widgets between title and keys."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        """The card."""
        with Vertical(classes="card") as card:
            card.border_title = Content(self._title)
            yield from self.body()
            yield Static(classes="problem", id="problem")
            yield Footer(show_command_palette=False, compact=True)

    def action_turn_page(self, pages: int) -> None:
        """Turn the pages of what is looked at, while the keys go elsewhere."""
        preview = self.query_one("#preview")
        if pages > 0:
            preview.scroll_page_down(animate=False)
        else:
            preview.scroll_page_up(animate=False)

    def complain(self, error: ChatlmError | None) -> None:
        """Say what went wrong and what to do; None takes it away."""
        line = self.query_one("#problem", Static)
        line.set_class(error is not None, "-shown")
        line.update(Content(visible(str(error)) if error else ""))
