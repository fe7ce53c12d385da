"""The chat as a scrolling column of turns; follows the end until the person scrolls away."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from chatlm.messages import Turn
from chatlm.text import visible
from chatlm.tui.labels import count
from chatlm.tui.widgets.turn_view import TurnView
from chatlm.tui.widgets.welcome import Welcome

PAGE = 20
"""Turns that are drawn at once; a long chat opens with its last ones."""


class Earlier(Static):
    """Stands for the turns above that are not drawn yet; a click draws more."""

    DEFAULT_CSS = """
    Earlier { height: 1; margin: 0 0 1 0; color: $text-muted; text-align: center; }
    Earlier:hover { color: $text; }
    """

    async def on_click(self, event: events.Click) -> None:
        """Draw one more page."""
        event.stop()
        await self.query_ancestor(Transcript).draw_earlier()


class NoticeLine(Static):
    """A quiet line between turns."""

    DEFAULT_CSS = """
    NoticeLine { height: auto; margin: 0 0 1 0; padding: 0 1; color: $text-muted;
                 border-left: outer $foreground 30%; }
    NoticeLine.-error { color: $text-error; border-left: outer $error; }
    """


class Column(Vertical):
    """As high as the transcript at least: an anchored container scrolls a lower one to its end."""

    DEFAULT_CSS = """
    Column { height: auto; min-height: 100%; max-width: 120; }
    """


class Transcript(VerticalScroll):
    """Turns of one chat, or the welcome when there are none."""

    DEFAULT_CSS = """
    Transcript {
        height: 1fr;
        padding: 1 1 0 1;
        scrollbar-size-vertical: 1;
        scrollbar-background: $background;
        scrollbar-background-hover: $background;
        scrollbar-background-active: $background;
        scrollbar-color: $foreground 25%;
        scrollbar-color-hover: $foreground 45%;
        scrollbar-color-active: $foreground 45%;
    }
    """

    def __init__(self) -> None:
        super().__init__(id="transcript")
        self._column = Column()
        self._undrawn: list[Turn] = []
        self._drawing = False

    def compose(self) -> ComposeResult:
        """The column that turns are put into."""
        yield self._column

    @property
    def newest(self) -> TurnView | None:
        """The last turn's view."""
        views = self.query(TurnView)
        return views.last() if views else None

    async def show(self, turns: Sequence[Turn]) -> None:
        """Replace what is shown by these turns; the last ones are drawn, the others on demand."""
        self._undrawn = list(turns[:-PAGE])
        drawn = turns[-PAGE:]
        for view in self.query(TurnView):
            await view.detach()
        with self.app.batch_update():
            await self._column.remove_children()
            if self._undrawn:
                await self._column.mount(Earlier(self._earlier_text()))
            views = [TurnView(turn, newest=turn is drawn[-1]) for turn in drawn]
            await self._column.mount_all(views or [Welcome()])
        self.anchor(bool(views))
        if not views:
            self.scroll_home(animate=False, immediate=True)

    async def add(self, turn: Turn) -> TurnView:
        """Draw a new turn at the end."""
        if self.newest is None:
            await self.query(Welcome).remove()
        else:
            self.newest.set_newest(False)
        view = TurnView(turn, newest=True)
        await self._column.mount(view)
        self.anchor()
        return view

    async def add_notice(self, text: str, *, error: bool = False) -> None:
        """Draw a line at the end; it is not stored."""
        await self._column.mount(
            NoticeLine(Content(visible(text)), classes="-error" if error else "")
        )

    async def draw_earlier(self) -> None:
        """Draw one more page of turns above, and keep what is read where it is."""
        if not self._undrawn or self._drawing:
            return
        self._drawing = True
        page, self._undrawn = self._undrawn[-PAGE:], self._undrawn[:-PAGE]
        below = self.virtual_size.height - self.scroll_y
        marker = self.query_one(Earlier)
        await self._column.mount_all([TurnView(turn) for turn in page], after=marker)
        if self._undrawn:
            marker.update(self._earlier_text())
        else:
            await marker.remove()
        self.call_after_refresh(self._keep_place, below)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Coming to the top draws what is above."""
        super().watch_scroll_y(old_value, new_value)
        if new_value < 1 <= old_value and self._undrawn:
            self.call_next(self.draw_earlier)

    def _keep_place(self, below: float) -> None:
        self.scroll_to(y=self.virtual_size.height - below, animate=False, immediate=True)
        self._drawing = False

    def _earlier_text(self) -> str:
        return f"↑ {count(len(self._undrawn), 'earlier turn')}"
