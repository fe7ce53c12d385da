"""What every card over the chat shares: its look, its keys at the foot, and work in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen, ScreenResultType
from textual.widget import Widget
from textual.widgets import Static

from chatlm.errors import ChatlmError
from chatlm.text import escape_controls
from chatlm.tui.widgets.hints import Hints
from chatlm.tui.workers import GeneratorEnded, GeneratorFactory, ValuesYielded, run_generator


class Card(ModalScreen[ScreenResultType]):
    """A title in the border, `body`, a line for what went wrong, and the keys.

    A subclass gives `CARD_TITLE` and `body`, and takes what a generator yields in `handle_value`.
    """

    DEFAULT_CSS = """
    Card {
        align: center middle;

        & > .card {
            width: 120;
            max-width: 100%;
            height: 40;
            max-height: 100%;
            padding: 0 1;
            border: round $primary;
            border-title-color: $text-primary;
            background: $surface;
        }
        & > .card > .problem {
            display: none;
            height: auto;
            color: $text-error;
        }
        & > .card > .problem.-shown { display: block; }
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

    CARD_TITLE = ""

    def __init__(self) -> None:
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (64, "-wide")]
        self.VERTICAL_BREAKPOINTS = [(0, "-low"), (18, "-high")]
        self._stop_event: threading.Event | None = None
        """Set to end the work that goes on; None when nothing does."""

    def body(self) -> Iterable[Widget]:
        """The widgets between title and keys."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        """The card."""
        with Vertical(classes="card") as card:
            card.border_title = Content(self.CARD_TITLE)
            yield from self.body()
            yield Static(classes="problem")
            yield Hints()

    @property
    def working(self) -> bool:
        """Whether a generator is being pulled."""
        return self._stop_event is not None

    def start_work(self, factory: GeneratorFactory) -> None:
        """Pull a generator in a thread, in place of the one before; its values go to `came`."""
        self.stop_work()
        self.show_error(None)
        self._stop_event = threading.Event()
        job = partial(run_generator, factory, self._stop_event, self.post_message)
        self.run_worker(job, thread=True, name=type(self).__name__)
        self.refresh_bindings()

    def stop_work(self) -> bool:
        """Stop pulling; returns whether there was something to stop."""
        if self._stop_event is None:
            return False
        self._stop_event.set()
        return True

    def handle_value(self, value: object) -> None:
        """Take one value of the generator."""

    def handle_end(self) -> None:
        """Show that the generator has ended, however it did."""

    def show_error(self, error: ChatlmError | None) -> None:
        """Say what went wrong and what to do; None takes it away."""
        line = self.query_one(".problem", Static)
        line.set_class(error is not None, "-shown")
        line.update(Content(escape_controls(str(error)) if error else ""))

    def on_screen_resume(self) -> None:
        """Nothing covers what is looked at now."""
        self.app.clear_notifications()

    def on_unmount(self) -> None:
        """A card that is gone works no more."""
        self.stop_work()

    @on(ValuesYielded)
    def _receive_values(self, message: ValuesYielded) -> None:
        message.stop()
        if message.source is self._stop_event:
            for value in message.values:
                self.handle_value(value)

    @on(GeneratorEnded)
    def _finish_work(self, message: GeneratorEnded) -> None:
        message.stop()
        if message.source is self._stop_event:
            self._stop_event = None
            self.show_error(message.error)
            self.handle_end()
            self.refresh_bindings()
