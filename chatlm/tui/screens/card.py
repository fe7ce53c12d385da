"""Base class of modal cards: frame, key hints and a worker thread."""

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
    """A modal card: title, `body`, error line and key hints.

    Subclasses define `CARD_TITLE` and `body`, and receive worker values in `handle_value`.
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
        & OptionList {
            border: none;
            padding: 0;
            background: $surface;
            &:focus { border: none; background-tint: $foreground 0%; }
            & > .option-list--option-disabled { color: $text-muted; }
            & > .option-list--option-highlighted, &:focus > .option-list--option-highlighted {
                background: $primary 18%; color: $foreground; text-style: none;
            }
        }
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
        """Set to stop the running generator; None if there is none."""

    def body(self) -> Iterable[Widget]:
        """Yield the widgets between title and key hints."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        """Yield the card."""
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
        """Pull a generator in a thread in place of any other; its values go to `handle_value`."""
        self.stop_work()
        self.show_error(None)
        self._stop_event = threading.Event()
        job = partial(run_generator, factory, self._stop_event, self.post_message)
        self.run_worker(job, thread=True, name=type(self).__name__)
        self.refresh_bindings()

    def stop_work(self) -> bool:
        """Stop the generator; return whether one was running."""
        if self._stop_event is None:
            return False
        self._stop_event.set()
        return True

    def handle_value(self, value: object) -> None:
        """Handle one value of the generator."""

    def handle_end(self) -> None:
        """Handle the end of the generator, whatever its cause."""

    def show_error(self, error: ChatlmError | None) -> None:
        """Show an error and its hint; None hides it."""
        line = self.query_one(".problem", Static)
        line.set_class(error is not None, "-shown")
        line.update(Content(escape_controls(str(error)) if error else ""))

    def on_screen_resume(self) -> None:
        """Clear toasts, which would cover the card."""
        self.app.clear_notifications()

    def on_unmount(self) -> None:
        """Stop the generator."""
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
