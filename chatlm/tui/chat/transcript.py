"""The chat as a scrolling column of turns, which follows the end until the user scrolls away."""

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
from chatlm.types.conversations import Turn

UNMOUNT_DISTANCE = 3
"""Distance in screens at which a turn is unmounted."""


class Transcript(VerticalScroll, can_focus=False):
    """The turns of a chat, or the welcome text."""

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
        self._newer_marker = NewerMarker()
        self._draw_lock = asyncio.Lock()
        """Held while turns are mounted; keys and scrolling both trigger it."""
        self._post_layout_callbacks: list[Callable[[], None]] = []
        """Callbacks to run after the next complete layout."""
        self._layout_pending = False
        """Whether a layout was still incomplete."""

    def compose(self) -> ComposeResult:
        """Yield the column of turns."""
        yield self._column
        yield self._newer_marker

    @property
    def newest_view(self) -> TurnView | None:
        """The last turn's view, which is always mounted."""
        return self._column.newest_view

    @property
    def selected_view(self) -> TurnView | None:
        """The turn that commands act on: the focused one, or else the newest."""
        focused = self.screen.focused
        return focused if isinstance(focused, TurnView) else self.newest_view

    async def show_turns(self, turns: Sequence[Turn]) -> None:
        """Show these turns; the last ones are mounted, the others on demand."""
        await self._column.show_turns(turns)
        self.anchor(bool(turns))
        if not turns:
            self.scroll_home(animate=False, immediate=True)

    async def add_turn(self, turn: Turn) -> TurnView:
        """Append a new turn and follow it."""
        await self._column.draw_end()
        await self._unmount_above()
        view = await self._column.add_turn(turn)
        self.anchor()
        return view

    async def remove_newest(self) -> None:
        """Remove the newest turn and follow the end of those before it."""
        await self._column.remove_newest()
        self.anchor(self.newest_view is not None)

    async def update_turn(self, turn: Turn) -> None:
        """Update a turn, mounted or not, and keep the scroll position."""
        drawn = any(view.turn.id == turn.id for view in self._column.views)
        put_back = self._capture_position() if drawn else None
        await self._column.update_turn(turn)
        if put_back:
            self._after_layout(put_back)

    async def open_thoughts(self, view: TurnView, is_open: bool) -> None:
        """Show or hide the thoughts of a turn, and keep the scroll position."""
        put_back = None if view.is_streaming else self._capture_position()
        await self._column.open_thoughts(view, is_open)
        if put_back:
            self._after_layout(put_back)

    def open_message(self, view: TurnView, is_open: bool) -> None:
        """Show all of a long message or fold it, and keep the scroll position."""
        put_back = self._capture_position()
        self._column.open_message(view, is_open)
        self._after_layout(put_back)

    def mark_omitted(self, turn_ids: Collection[int]) -> None:
        """Mark the turns that no longer fit the context, by their ids."""
        self._column.mark_omitted(turn_ids)

    async def add_notice(self, text: str, *, error: bool = False, topic: str = "") -> bool:
        """Append a notice line, which is not stored; return whether it replaced an earlier one of
        its topic."""
        return await self._column.add_notice(text, error=error, topic=topic)

    async def remove_notices(self, topic: str) -> None:
        """Remove the notices of a topic, which hold no longer."""
        await self._column.remove_notices(topic)

    async def reveal_turn(self, turn_id: int) -> TurnView | None:
        """Mount and select a turn; return None if the chat has no such turn."""
        view = await self._column.draw_turn(turn_id)
        if view is not None:
            self.select_turn(view)
        return view

    def select_turn(self, view: TurnView, *, align_end: bool = False) -> None:
        """Focus a turn and scroll it into view.

        Args:
            view: a mounted turn.
            align_end: show the end, not the beginning, of a turn that is higher than the
                transcript.
        """
        self.screen.set_focus(view, scroll_visible=False)
        self._after_layout(partial(self._scroll_into_view, view, align_end))

    async def follow_end(self) -> None:
        """Scroll to the end and follow it."""
        await self._column.draw_end()
        self.anchor()
        self._update_newer_marker()

    def scroll_pages(self, pages: int) -> None:
        """Scroll by -1 or 1 pages; at the end, follow it."""
        if pages < 0:
            self.scroll_page_up(animate=False)
        elif self.scroll_y + self.scrollable_content_region.height < self.max_scroll_y:
            self.scroll_page_down(animate=False)
        else:  # textual stops following when it is asked to scroll beyond the end
            self.anchor()

    async def draw_earlier(self) -> None:
        """Mount one more page of earlier turns and keep the scroll position."""
        async with self._draw_lock:
            if self._column.earlier_marker.display:
                put_back = self._capture_position()
                await self._unmount_below()
                await self._column.draw_earlier()
                self._after_layout(put_back)

    async def draw_between(self) -> None:
        """Mount one more page of later turns and keep the scroll position."""
        async with self._draw_lock:
            if self._column.between_marker.display:
                put_back = self._capture_position()
                await self._unmount_above()
                await self._column.draw_between()
                self._after_layout(put_back)

    async def action_walk(self, step: int) -> None:
        """Select the previous (-1) or next (1) turn, after scrolling through a tall one."""
        view, views = self.selected_view, self._column.views
        if view is None:
            return
        above, below = self._rows_above(view), self._rows_below(view)
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
            self.select_turn(views[at], align_end=step < 0)

    def action_first(self) -> None:
        """Select the first mounted turn."""
        if views := self._column.views:
            self.select_turn(views[0])

    async def action_last(self) -> None:
        """Select the last turn and follow it."""
        if view := self.newest_view:
            self.screen.set_focus(view, scroll_visible=False)
            await self.follow_end()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Mount turns near the visible ones."""
        super().watch_scroll_y(old_value, new_value)
        self._update_newer_marker()
        if self._post_layout_callbacks or self._draw_lock.locked():
            return
        if new_value < 1 <= old_value:
            self.call_next(self.draw_earlier)
        elif new_value > old_value and self._column.between_marker.display:
            marker = self._column.between_marker.virtual_region
            reached = marker.y < new_value + self.content_region.height
            if reached or new_value >= self.max_scroll_y:
                self.call_next(self.draw_between if reached else self.follow_end)

    def on_mount(self) -> None:
        """Track positions after each layout."""
        self.screen.screen_layout_refresh_signal.subscribe(self, self._handle_layout)

    @on(events.Click, "EarlierMarker")
    async def _click_earlier(self, event: events.Click) -> None:
        event.stop()
        await self.draw_earlier()

    @on(events.Click, "BetweenMarker")
    async def _click_between(self, event: events.Click) -> None:
        event.stop()
        await self.draw_between()

    @on(events.Click, "NewerMarker")
    async def _click_newer(self, event: events.Click) -> None:
        event.stop()
        await self.follow_end()

    def _rows_above(self, view: TurnView) -> int:
        """Rows of the view above the visible part; negative if it starts below the first row."""
        return round(self.scroll_y) - view.virtual_region.y

    def _rows_below(self, view: TurnView) -> int:
        """Rows of the view below the visible part; negative if it ends above the last row.

        A turn that is not the newest may have `Newer` over the last row.
        """
        last = round(self.scroll_y) + self.content_region.height - (view is not self.newest_view)
        return view.virtual_region.bottom - last

    def _scroll_into_view(self, view: TurnView, align_end: bool) -> None:
        above, below = self._rows_above(view), self._rows_below(view)
        if above + below > 0:  # it is higher than what is seen at once
            rows = below if align_end else -above
        else:
            rows = below if below > 0 else -max(above, 0)
        if rows:
            self.scroll_relative(y=rows, animate=False, immediate=True)

    async def _handle_layout(self, screen: Screen[object]) -> None:
        """Mount earlier turns while they fit, and update the marker for newer ones."""
        self._update_newer_marker()
        if self._layout_pending:
            self._run_post_layout_callbacks()
        room = self._column.earlier_marker.display and self.max_scroll_y <= 0
        if room and not self._draw_lock.locked() and self._all_laid_out():
            async with self._draw_lock:
                await self._column.draw_earlier()

    def _after_layout(self, callback: Callable[[], None]) -> None:
        """Run a callback after the next complete layout."""
        self._post_layout_callbacks.append(callback)
        self.call_after_refresh(self._run_post_layout_callbacks)

    def _run_post_layout_callbacks(self) -> None:
        self._layout_pending = not self._all_laid_out()
        if not self._layout_pending:
            steps, self._post_layout_callbacks = self._post_layout_callbacks, []
            for step in steps:
                step()

    def _all_laid_out(self) -> bool:
        return all(view.size.height for view in self._column.views)

    async def _unmount_above(self) -> None:
        views = self._column.views[:-1]
        await self._column.unmount_views(list(takewhile(self._is_far(self._rows_above), views)))

    async def _unmount_below(self) -> None:
        views = self._column.views[-2::-1]
        await self._column.unmount_views(
            list(takewhile(self._is_far(self._rows_below), views))[::-1]
        )

    def _is_far(self, hidden_rows: Callable[[TurnView], int]) -> Callable[[TurnView], bool]:
        """Return a test for views far enough out of sight to unmount."""
        rows = UNMOUNT_DISTANCE * self.content_region.height
        return lambda view: not view.has_focus and hidden_rows(view) - view.region.height > rows

    def _capture_position(self) -> Callable[[], None]:
        """Return a callback that restores the visible position after a layout change.

        That is the first beginning of a turn that is seen, or else the end of the one that is.
        """
        self.release_anchor()
        height = self.content_region.height
        seen = [
            view
            for view in self._column.views
            if -height < self._rows_above(view) < view.size.height
        ]
        began = [view for view in seen if self._rows_above(view) <= 0]
        view, end = (began or seen or self._column.views)[0], not began
        return partial(
            self._restore_row, view, self._rows_below(view) if end else -self._rows_above(view), end
        )

    def _restore_row(self, view: TurnView, row: int, align_end: bool) -> None:
        """Scroll until a view begins so many rows below the first, or ends below the last."""
        rows = (self._rows_below(view) if align_end else -self._rows_above(view)) - row
        if rows:
            self.scroll_relative(y=rows, animate=False, immediate=True)
        if self.scroll_y >= self.max_scroll_y:
            self.anchor()

    def _update_newer_marker(self) -> None:
        self._newer_marker.display = self.max_scroll_y - self.scroll_y >= 1
