"""The column of mounted turns, with markers, notices and the welcome text.

Each widget on the screen makes every change slower, and a chat may have thousands of turns. Knows
nothing of scrolling.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from chatlm.text import escape_controls
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.chat.welcome import Welcome
from chatlm.tui.formatting import count
from chatlm.types.conversations import Turn

PAGE_SIZE = 12
"""Turns mounted at once; a long chat opens with its last ones."""


class TurnColumn(Vertical):
    """A marker, the mounted turns, a marker and the newest turn; or the welcome text.

    As high as the transcript at least: an anchored container scrolls a lower one to its end.
    """

    DEFAULT_CSS = """
    TurnColumn { height: auto; min-height: 100%; max-width: 120; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.earlier_marker = EarlierMarker()
        self.between_marker = BetweenMarker()
        self._turns_above: list[Turn] = []
        """Unmounted turns above all others."""
        self._turns_between: list[Turn] = []
        """Unmounted turns above the newest."""
        self._omitted_turns: Collection[int] = ()
        self._open_thoughts: set[int] = set()
        """Ids of the turns whose thoughts are open."""
        self._open_messages: set[int] = set()
        """Ids of the turns whose long messages are shown whole."""

    def compose(self) -> ComposeResult:
        """Yield the hidden markers."""
        yield self.earlier_marker
        yield self.between_marker

    @property
    def views(self) -> list[TurnView]:
        """The mounted turns, in order."""
        return [child for child in self.children if isinstance(child, TurnView)]

    @property
    def newest_view(self) -> TurnView | None:
        """The last turn's view."""
        views = self.views
        return views[-1] if views else None

    async def show_turns(self, turns: Sequence[Turn]) -> None:
        """Show the last of these turns, or the welcome text."""
        for view in self.views:
            await view.stop_streaming()
        self._turns_above, self._turns_between, self._omitted_turns = list(turns[:-1]), [], ()
        self._open_thoughts.clear()
        self._open_messages.clear()
        with self.app.batch_update():
            await self.query_children("TurnView, NoticeLine, Welcome").remove()
            await self.mount(TurnView(turns[-1], newest=True) if turns else Welcome())
            await self._draw_around(len(turns))

    async def add_turn(self, turn: Turn) -> TurnView:
        """Append a new turn."""
        if self.newest_view is None:
            await self.query_children(Welcome).remove()
        else:
            self.newest_view.set_newest(False)
        view = TurnView(turn, newest=True)
        await self.mount(view)
        return view

    async def remove_newest(self) -> None:
        """Remove the newest turn."""
        if self.newest_view is not None:
            await self.show_turns(self._all_but_newest())

    async def add_notice(self, text: str, *, error: bool = False, topic: str = "") -> bool:
        """Append a notice line, which is not stored; return whether it replaced an earlier one of
        its topic."""
        notices = self.query_children(NoticeLine)
        earlier = [notice for notice in notices if topic and notice.topic == topic]
        with self.app.batch_update():
            for notice in earlier:
                await notice.remove()
            await self.mount(NoticeLine(text, error=error, topic=topic))
        return bool(earlier)

    async def remove_notices(self, topic: str) -> None:
        """Remove the notices of a topic, which hold no longer."""
        for notice in self.query_children(NoticeLine):
            if notice.topic == topic:
                await notice.remove()

    async def update_turn(self, turn: Turn) -> None:
        """Update a turn, mounted or not."""
        for view in self.views:
            if view.turn.id == turn.id:
                await view.show_turn(turn)
        for turns in (self._turns_above, self._turns_between):
            turns[:] = [turn if old.id == turn.id else old for old in turns]

    async def open_thoughts(self, view: TurnView, is_open: bool) -> None:
        """Show or hide the thoughts of a turn; that lasts as long as the chat is open."""
        (self._open_thoughts.add if is_open else self._open_thoughts.discard)(view.turn.id)
        await view.open_thoughts(is_open)

    def open_message(self, view: TurnView, is_open: bool) -> None:
        """Show all of a long message, or fold it; that lasts as long as the chat is open."""
        (self._open_messages.add if is_open else self._open_messages.discard)(view.turn.id)
        view.open_message(is_open)

    def mark_omitted(self, turn_ids: Collection[int]) -> None:
        """Mark the turns that no longer fit the context, by their ids."""
        self._omitted_turns = turn_ids
        for view in self.views:
            view.set_omitted(view.turn.id in turn_ids)

    async def draw_turn(self, turn_id: int) -> TurnView | None:
        """Mount a turn and those around it; return None for an unknown one."""
        if self.newest_view is not None and self.newest_view.turn.id == turn_id:
            await self.draw_end()
        for at, turn in enumerate(self._all_but_newest()):
            if turn.id == turn_id and all(view.turn.id != turn_id for view in self.views):
                await self._draw_around(at)
        return next((view for view in self.views if view.turn.id == turn_id), None)

    async def draw_end(self) -> None:
        """Mount the last turns."""
        if self._turns_between:
            await self._draw_around(len(self._all_but_newest()))

    async def draw_earlier(self) -> None:
        """Mount one more page of earlier turns."""
        page, self._turns_above = self._turns_above[-PAGE_SIZE:], self._turns_above[:-PAGE_SIZE]
        await self._mount_turns(page, after=self.earlier_marker)

    async def draw_between(self) -> None:
        """Mount one more page of later turns."""
        page, self._turns_between = self._turns_between[:PAGE_SIZE], self._turns_between[PAGE_SIZE:]
        await self._mount_turns(page, before=self.between_marker)

    async def unmount_views(self, views: Sequence[TurnView]) -> None:
        """Unmount these views: the first ones, with the notices among them, or the last ones before
        the newest, in order."""
        turns = [view.turn for view in views]
        if views and views[0] is self.views[0]:
            self._turns_above += turns
            above = self.children[: self.children.index(views[-1])]
            for notice in [child for child in above if isinstance(child, NoticeLine)]:
                await notice.remove()
        else:
            self._turns_between[:0] = turns
        for view in views:
            await view.remove()
        self._update_markers()

    def _all_but_newest(self) -> list[Turn]:
        return [*self._turns_above, *(view.turn for view in self.views[:-1]), *self._turns_between]

    async def _draw_around(self, index: int) -> None:
        """Draw one page of turns with the one at `index` in it, in place of those that are
        drawn."""
        turns, newest = self._all_but_newest(), self.newest_view
        start = max(min(index - PAGE_SIZE // 2, len(turns) - PAGE_SIZE + 1), 0)
        with self.app.batch_update():
            for child in self.query_children("TurnView, NoticeLine"):
                if child is not newest:
                    await child.remove()
            self._turns_above, self._turns_between = turns[:start], turns[start + PAGE_SIZE :]
            await self._mount_turns(turns[start : start + PAGE_SIZE], before=self.between_marker)

    async def _mount_turns(
        self,
        turns: list[Turn],
        before: BetweenMarker | None = None,
        after: EarlierMarker | None = None,
    ) -> None:
        views = [
            TurnView(
                turn,
                thoughts_open=turn.id in self._open_thoughts,
                message_open=turn.id in self._open_messages,
            )
            for turn in turns
        ]
        await self.mount_all(views, before=before, after=after)
        for view in views:
            view.set_omitted(view.turn.id in self._omitted_turns)
        self._update_markers()

    def _update_markers(self) -> None:
        self.earlier_marker.show_count(len(self._turns_above))
        self.between_marker.show_count(len(self._turns_between))


class NoticeLine(Static):
    """A quiet line between turns.

    Args:
        text: the notice.
        error: whether something failed.
        topic: names what it is about, if a later notice may replace it.
    """

    DEFAULT_CSS = """
    NoticeLine { height: auto; margin: 0 0 1 1; padding: 0 1; color: $text-muted;
                 border-left: outer $foreground 30%; }
    NoticeLine.-error { color: $text-error; border-left: outer $error; }
    """

    def __init__(self, text: str, *, error: bool = False, topic: str = "") -> None:
        super().__init__(Content(escape_controls(text)), classes="-error" if error else "")
        self.topic = topic


class UndrawnMarker(Static):
    """Placeholder for unmounted turns; a click mounts some of them."""

    DEFAULT_CSS = """
    UndrawnMarker {
        height: 1; margin: 0 0 1 0; color: $text-muted; text-align: center; display: none;
    }
    UndrawnMarker:hover { color: $text; }
    """

    SYMBOL = ""
    NOUN = ""

    def show_count(self, turns: int) -> None:
        """Show the number of unmounted turns."""
        self.display = turns > 0
        self.update(f"{self.SYMBOL} {count(turns, self.NOUN)}")


class EarlierMarker(UndrawnMarker):
    """Marker for turns above the mounted ones."""

    SYMBOL = "↑"
    NOUN = "earlier turn"


class BetweenMarker(UndrawnMarker):
    """Marker for turns between the mounted ones and the newest."""

    SYMBOL = "↕"
    NOUN = "more turn"


class NewerMarker(Static):
    """Marker on the last row while there is more below; a click scrolls to the end."""

    DEFAULT_CSS = """
    NewerMarker {
        layer: above;
        dock: bottom;
        height: 1;
        text-align: center;
        color: $text-muted;
        background: $background;
        display: none;
    }
    NewerMarker:hover { color: $text; }
    """

    def __init__(self) -> None:
        super().__init__("↓ more below")
