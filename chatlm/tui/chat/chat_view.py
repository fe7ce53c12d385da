"""Title, transcript, banner and composer of one chat; knows no session and no thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from chatlm.errors import ChatlmError, UsageError
from chatlm.text import escape_controls, one_line
from chatlm.tui.chat.status import EngineBanner
from chatlm.tui.chat.transcript import Transcript
from chatlm.tui.chat.turn_column import Suggestion
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.composer.composer import Composer
from chatlm.tui.engine_loader import EngineState
from chatlm.tui.widgets.context_gauge import ContextFill, ContextGauge
from chatlm.types.messages import Turn

TITLE_WIDTH = 120


NEW_CHAT = "New chat"


class ChatView(Vertical):
    """Everything but the list and the status bar.

    Args:
        clock: seconds that only grow, such as `time.monotonic`.
        composer: where the person writes.
    """

    DEFAULT_CSS = """
    ChatView {
        & > #head { height: 1; padding: 0 3; }
        & #title {
            width: 1fr;
            color: $text-muted;
            text-overflow: ellipsis;
            text-wrap: nowrap;
        }
        & Ruler { width: 40%; max-width: 44; margin: 0 0 0 2; }
        &.-incognito #title { color: $text-warning; }
        & > #middle { width: 100%; height: 1fr; layers: default above; }
        & Transcript { margin: 0 2 0 0; }
        & > Composer { margin: 0 1; }
    }
    """

    def __init__(self, clock: Callable[[], float], composer: Composer) -> None:
        super().__init__()
        self._clock = clock
        self.composer = composer

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        with Horizontal(id="head"):
            yield Static(id="title", markup=False)
            yield ContextGauge()
        with Horizontal(id="middle"):
            yield Transcript()
        yield EngineBanner(self._clock)
        yield self.composer

    @property
    def newest(self) -> TurnView | None:
        """The view of the chat's last turn."""
        return self.query_one(Transcript).newest

    async def show(self, title: str, turns: Sequence[Turn], *, incognito: bool) -> None:
        """Replace what is shown by a chat; the title falls back to the first message."""
        self.set_class(incognito, "-incognito")
        self.composer.set_class(incognito, "-incognito")
        self.show_title(title or (turns[0].words if turns else NEW_CHAT))
        await self.query_one(Transcript).show(turns)

    async def add(self, turn: Turn) -> TurnView:
        """Draw a new turn at the end."""
        if turn.position == 0:
            self.show_title(turn.words)
        return await self.query_one(Transcript).add(turn)

    async def tell(self, problem: ChatlmError | str) -> None:
        """Say something in the transcript and in a toast."""
        error = isinstance(problem, ChatlmError)
        await self.query_one(Transcript).add_notice(str(problem), error=error)
        self.toast(problem)

    def toast(self, problem: ChatlmError | str) -> None:
        """Say something for a moment."""
        error = isinstance(problem, ChatlmError) and not isinstance(problem, UsageError)
        self.notify(
            escape_controls(str(problem)), severity="error" if error else "warning", markup=False
        )

    def show_engine(self, state: EngineState) -> None:
        """Say that the model is loading, or why it is not there."""
        self.query_one(EngineBanner).state = state

    def show_fill(self, fill: ContextFill | None, outside: Collection[int] = ()) -> None:
        """Say how full the context is, and mark the turns that no longer fit, by their ids."""
        self.query_one(ContextGauge).fill = fill
        self.query_one(Transcript).mark(outside)

    def show_used(self, used: int) -> None:
        """Let the ruler follow a turn that is running."""
        ruler = self.query_one(ContextGauge)
        if ruler.fill is not None:
            ruler.fill = dataclasses.replace(ruler.fill, turns=max(used - ruler.fill.system, 0))

    def turn_page(self, pages: int) -> None:
        """Scroll the transcript by -1 or 1 pages."""
        self.query_one(Transcript).turn_page(pages)

    @on(Suggestion.Taken)
    def _use_suggestion(self, event: Suggestion.Taken) -> None:
        event.stop()
        self.composer.put_back(event.text)
        self.composer.focus()

    def show_title(self, title: str) -> None:
        """Name the chat above the transcript and in the terminal's title."""
        incognito = self.has_class("-incognito")
        mark = "incognito, nothing is saved · " if incognito else ""
        self.query_one("#title", Static).update(mark + one_line(title, TITLE_WIDTH))
        self.app.sub_title = "incognito chat" if incognito else title
