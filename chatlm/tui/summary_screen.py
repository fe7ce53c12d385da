"""A turn's summary while the model writes it; closed early, it changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from chatlm.errors import ChatlmError
from chatlm.text import visible
from chatlm.tui.card import Card


class SummaryScreen(Card[None]):
    """Closes by itself when the summary is written.

    Args:
        write: has the summary written and stored; runs in a thread and yields its pieces.
    """

    DEFAULT_CSS = """
    SummaryScreen > .card { width: 72; height: auto; }
    SummaryScreen #words { height: auto; margin: 1 0; }
    """

    CARD_TITLE = "Summary"

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "give up")]

    def __init__(self, write: Callable[[], Generator[str, None, None]]) -> None:
        super().__init__()
        self._write = write
        self._words = ""
        self._failed = False

    def body(self) -> Iterable[Widget]:
        """The words so far."""
        yield Static("The model reads the turn …", id="words")

    def on_mount(self) -> None:
        """Have it written."""
        self.work(self._write)

    def came(self, value: object) -> None:
        """Take a piece."""
        self._words += str(value)
        if self._words.strip():
            self.query_one("#words", Static).update(Content(visible(self._words.strip())))

    def complain(self, error: ChatlmError | None) -> None:
        """A failure stays to be read."""
        super().complain(error)
        self._failed = error is not None

    def ended(self) -> None:
        """Go, unless something went wrong or the person has left already."""
        if not self._failed and self.is_current:
            self.dismiss()

    def action_leave(self) -> None:
        """Give up, or close."""
        self.halt()
        self.dismiss()
