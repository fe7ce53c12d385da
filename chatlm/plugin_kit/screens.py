"""A framed card over the chat, for the screens of plugins; looks as chatlm's own."""

from __future__ import annotations

from collections.abc import Iterable

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Footer, Static

from chatlm.errors import ChatlmError
from chatlm.text import escape_controls


class PluginCard(ModalScreen[None]):
    """A title in the border, `body`, a line for what went wrong, and the keys.

    A subclass gives `body`, its `BINDINGS` in the order in which their keys shall stand at the
    foot, the one for escape last, and its size by `& > .card` in its CSS.

    Args:
        title: stands in the border.
    """

    DEFAULT_CSS = """
    PluginCard {
        align: center middle;

        & > .card {
            width: 110;
            max-width: 100%;
            height: 40;
            max-height: 100%;
            padding: 0 1;
            border: round $primary;
            border-title-color: $text-primary;
            background: $surface;
        }
        & .problem { display: none; height: auto; color: $text-error; }
        & .problem.-shown { display: block; }
        & OptionList {
            border: none;
            padding: 0;
            background: $surface;
            text-wrap: nowrap;
            text-overflow: ellipsis;
            &:focus { border: none; background-tint: $foreground 0%; }
            &:focus > .option-list--option-highlighted {
                background: $primary 40%; color: $foreground; text-style: none;
            }
        }
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

    def __init__(self, title: str) -> None:
        super().__init__()
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

    def show_error(self, error: ChatlmError | None) -> None:
        """Say what went wrong and what to do; None takes it away."""
        line = self.query_one("#problem", Static)
        line.set_class(error is not None, "-shown")
        line.update(Content(escape_controls(str(error)) if error else ""))
