"""The chat as a scrolling column of turns; follows the end until the person scrolls away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import takewhile
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen

from chatlm.tui import commands
from chatlm.tui.chat.turn_column import NewerMarker, TurnColumn
from chatlm.tui.chat.turn_view import TurnView
from chatlm.types.messages import Turn

UNMOUNT_DISTANCE = 3
"""Screens from what is seen at which a turn is no longer drawn."""


class Transcript(VerticalScroll, can_focus=False):
    """Turns of one chat, or the welcome when there are none."""

    DEFAULT_CSS = """
    Transcript {
        height: 1fr;
        padding: 1 1 0 0;
        layers: default above;
        scrollbar-size-vertical: 1;
        scrollbar-background: $background;
        scrollbar-background-hover: $background;
        scrollbar-background-active: $background;
        scrollbar-color: $foreground 25%;
        scrollbar-color-hover: $foreground 45%;
        scrollbar-color-active: $foreground 45%;
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [*commands.bindings(commands.TURN_NAVIGATION)]

    def __init__(self) -> None:
        super().__init__(id="transcript")
        self._column = TurnColumn()
        self._newer = NewerMarker()
        self._drawing = asyncio.Lock()
        """Held while turns are drawn above or below: keys and scrolling both ask for them."""
        self._steps: list[Callable[[], None]] = []
        """What to do as soon as all that is drawn has a place."""
        self._overdue = False
        """Whether that was tried, and not all had a place."""

    def compose(self) -> ComposeResult:
        """The column that turns are put into."""
        yield self._column
        yield self._newer

    @property
    def newest(self) -> TurnView | None:
        """The last turn's view; always drawn."""
        return self._column.newest

    @property
    def selected(self) -> TurnView | None:
        """The turn that commands mean: the one with the focus, or else the newest."""
        focused = self.screen.focused
        return focused if isinstance(focused, TurnView) else self.newest

    async def show(self, turns: Sequence[Turn]) -> None:
        """Replace what is shown by these turns; the last ones are drawn, the others on demand."""
        await self._column.show(turns)
        self.anchor(bool(turns))
        if not turns:
            self.scroll_home(animate=False, immediate=True)

    async def add(self, turn: Turn) -> TurnView:
        """Draw a new turn at the end, and follow it."""
        await self._column.draw_end()
        await self._let_go_above()
        view = await self._column.add(turn)
        self.anchor()
        return view

    async def change(self, turn: Turn) -> None:
        """Show a turn of this chat as it is stored now, drawn or not, and keep the place."""
        drawn = any(view.turn.id == turn.id for view in self._column.views)
        put_back = self._place() if drawn else None
        await self._column.change(turn)
        if put_back:
            self._then(put_back)

    def mark(self, outside: Collection[int]) -> None:
        """Say which turns no longer fit the context, by their ids."""
        self._column.mark(outside)

    async def add_notice(self, text: str, *, error: bool = False) -> None:
        """Draw a line at the end; it is not stored."""
        await self._column.add_notice(text, error=error)

    async def reveal(self, turn_id: int) -> TurnView | None:
        """Draw a turn and those around it, and select it; None when it is not of this chat."""
        view = await self._column.draw(turn_id)
        if view is not None:
            self.select(view)
        return view

    def select(self, view: TurnView, *, end: bool = False) -> None:
        """Focus a turn and bring it into sight.

        Args:
            view: one of the turns that are drawn.
            end: show the end, not the beginning, of a turn that is higher than the transcript.
        """
        self.screen.set_focus(view, scroll_visible=False)
        self._then(partial(self._bring, view, end))

    async def follow(self) -> None:
        """Go to the end and stay there while it grows."""
        await self._column.draw_end()
        self.anchor()
        self._show_newer()

    def turn_page(self, pages: int) -> None:
        """Scroll by -1 or 1 pages; the last one is followed while it grows."""
        if pages < 0:
            self.scroll_page_up(animate=False)
        elif self.scroll_y + self.scrollable_content_region.height < self.max_scroll_y:
            self.scroll_page_down(animate=False)
        else:  # textual stops following when it is asked to scroll beyond the end
            self.anchor()

    async def draw_earlier(self) -> None:
        """Draw one more page of turns above, and keep what is read where it is."""
        async with self._drawing:
            if self._column.earlier.display:
                put_back = self._place()
                await self._let_go_below()
                await self._column.draw_earlier()
                self._then(put_back)

    async def draw_between(self) -> None:
        """Draw one more page of turns towards the newest, and keep what is read where it is."""
        async with self._drawing:
            if self._column.between.display:
                put_back = self._place()
                await self._let_go_above()
                await self._column.draw_between()
                self._then(put_back)

    async def action_walk(self, step: int) -> None:
        """Select the turn before (-1) or after (1), once all of a high one was seen."""
        view, views = self.selected, self._column.views
        if view is None:
            return
        above, below = self._above(view), self._below(view)
        if above + below > 0 and (below if step > 0 else above) > 0:
            self.scroll_relative(y=step * max(self.size.height // 2, 1), animate=False)
            return
        if step < 0 and view is views[0]:
            await self.draw_earlier()
        elif step > 0 and view in views[-2:-1]:
            await self.draw_between()
        views = self._column.views
        at = views.index(view) + step
        if 0 <= at < len(views):
            self.select(views[at], end=step < 0)

    def action_first(self) -> None:
        """Select the first turn that is drawn."""
        if views := self._column.views:
            self.select(views[0])

    async def action_last(self) -> None:
        """Select the last turn and follow it."""
        if view := self.newest:
            self.screen.set_focus(view, scroll_visible=False)
            await self.follow()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Coming near turns that are not drawn draws them."""
        super().watch_scroll_y(old_value, new_value)
        self._show_newer()
        if self._steps or self._drawing.locked():
            return
        if new_value < 1 <= old_value:
            self.call_next(self.draw_earlier)
        elif new_value > old_value and self._column.between.display:
            marker = self._column.between.virtual_region
            reached = marker.y < new_value + self.content_region.height
            if reached or new_value >= self.max_scroll_y:
                self.call_next(self.draw_between if reached else self.follow)

    def on_mount(self) -> None:
        """See where things are each time they were laid out."""
        self.screen.screen_layout_refresh_signal.subscribe(self, self._laid_out)

    @on(events.Click, "Earlier")
    async def _click_earlier(self, event: events.Click) -> None:
        event.stop()
        await self.draw_earlier()

    @on(events.Click, "Between")
    async def _click_between(self, event: events.Click) -> None:
        event.stop()
        await self.draw_between()

    @on(events.Click, "Newer")
    async def _click_newer(self, event: events.Click) -> None:
        event.stop()
        await self.follow()

    def _above(self, view: TurnView) -> int:
        """Rows that the view begins above what is seen; negative below its first row."""
        return round(self.scroll_y) - view.virtual_region.y

    def _below(self, view: TurnView) -> int:
        """Rows that the view ends below what is seen; negative above its last row.

        A turn that is not the newest may have `Newer` over the last row.
        """
        last = round(self.scroll_y) + self.content_region.height - (view is not self.newest)
        return view.virtual_region.bottom - last

    def _bring(self, view: TurnView, end: bool) -> None:
        above, below = self._above(view), self._below(view)
        if above + below > 0:  # it is higher than what is seen at once
            rows = below if end else -above
        else:
            rows = below if below > 0 else -max(above, 0)
        if rows:
            self.scroll_relative(y=rows, animate=False, immediate=True)

    async def _laid_out(self, screen: Screen[object]) -> None:
        """Draw earlier turns while there is room for them, and offer to go to the end."""
        self._show_newer()
        if self._overdue:
            self._step()
        room = self._column.earlier.display and self.max_scroll_y <= 0
        if room and not self._drawing.locked() and self._placed():
            async with self._drawing:
                await self._column.draw_earlier()

    def _then(self, step: Callable[[], None]) -> None:
        """Do something as soon as all that is drawn has a place."""
        self._steps.append(step)
        self.call_after_refresh(self._step)

    def _step(self) -> None:
        self._overdue = not self._placed()
        if not self._overdue:
            steps, self._steps = self._steps, []
            for step in steps:
                step()

    def _placed(self) -> bool:
        return all(view.size.height for view in self._column.views)

    async def _let_go_above(self) -> None:
        views = self._column.views[:-1]
        await self._column.let_go(list(takewhile(self._far(self._above), views)))

    async def _let_go_below(self) -> None:
        views = self._column.views[-2::-1]
        await self._column.let_go(list(takewhile(self._far(self._below), views))[::-1])

    def _far(self, hidden: Callable[[TurnView], int]) -> Callable[[TurnView], bool]:
        """Whether a view is so far out of sight that it need not be drawn."""
        rows = UNMOUNT_DISTANCE * self.content_region.height
        return lambda view: not view.has_focus and hidden(view) - view.region.height > rows

    def _place(self) -> Callable[[], None]:
        """What brings that which is read now back to its row, once a change is laid out.

        That is the first beginning of a turn that is seen, or else the end of the one that is.
        """
        self.release_anchor()
        height = self.content_region.height
        seen = [
            view for view in self._column.views if -height < self._above(view) < view.size.height
        ]
        began = [view for view in seen if self._above(view) <= 0]
        view, end = (began or seen or self._column.views)[0], not began
        return partial(self._put, view, self._below(view) if end else -self._above(view), end)

    def _put(self, view: TurnView, row: int, end: bool) -> None:
        """Scroll until a view begins so many rows below the first, or ends below the last."""
        rows = (self._below(view) if end else -self._above(view)) - row
        if rows:
            self.scroll_relative(y=rows, animate=False, immediate=True)
        if self.scroll_y >= self.max_scroll_y:
            self.anchor()

    def _show_newer(self) -> None:
        self._newer.display = self.max_scroll_y - self.scroll_y >= 1
