"""Chats being read from a file; closed early, those read by then stay."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import ProgressBar, Static

from chatlm.errors import ChatlmError
from chatlm.store.intake import Import
from chatlm.text import visible
from chatlm.tui.card import Card
from chatlm.tui.labels import count


class ImportScreen(Card[None]):
    """Says how far it is, then what was imported and what was left out.

    Args:
        read: reads the chats in and yields how far it is; runs in a thread.
    """

    DEFAULT_CSS = """
    ImportScreen > .card { width: 72; height: auto; }
    ImportScreen ProgressBar { margin: 1 0; }
    ImportScreen #said { height: auto; }
    """

    CARD_TITLE = "Import"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "stop"),
        Binding("escape,enter,q", "dismiss", "close"),
    ]

    def __init__(self, read: Callable[[], Generator[Import, None, None]]) -> None:
        super().__init__()
        self._read = read
        self._stored = False

    def body(self) -> Iterable[Widget]:
        """Bar and words."""
        yield ProgressBar(total=None, show_eta=False)
        yield Static("Looking through the file …", id="said")

    def on_mount(self) -> None:
        """Begin."""
        self.work(self._read)

    def came(self, value: object) -> None:
        """Show how far it is."""
        if isinstance(value, Import):
            self._stored = bool(value.added)
            self.query_one(ProgressBar).update(total=value.total, progress=value.done)
            self.query_one("#said", Static).update(Content(visible(said(value))))

    def complain(self, error: ChatlmError | None) -> None:
        """Of a failed import only the chats that were stored are told."""
        super().complain(error)
        self.query_one(ProgressBar).display = error is None
        self.query_one("#said").display = error is None or self._stored

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Stop what goes on, close what has ended."""
        return self.working == (action == "stop")

    def action_stop(self) -> None:
        """Stop, and close."""
        self.halt()
        self.dismiss()


def said(state: Import) -> str:
    """What an import has done so far."""
    if state.checking:
        return "Looking through the file …"
    there = f", {state.there} there already" if state.there else ""
    out = ", ".join(f"{number} {what}" for what, number in state.left_out.most_common())
    return f"{count(len(state.added), 'chat')} imported{there}" + (
        f"\nLeft out: {out}" if out else ""
    )
