"""Chats being read from a file; closed early, those read by then stay."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import ProgressBar, Static

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
        Binding("escape", "leave", "stop"),
        Binding("enter,q", "leave", "close", show=False),
    ]

    def __init__(self, read: Callable[[], Generator[Import, None, None]]) -> None:
        super().__init__()
        self._read = read

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
            self.query_one(ProgressBar).update(total=value.total, progress=value.done)
            self.query_one("#said", Static).update(Content(visible(said(value))))

    def action_leave(self) -> None:
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
