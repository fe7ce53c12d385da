"""A screen with nothing but a transcript and a place to type, for tests of the transcript."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime

from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import TextArea

from chatlm.tui.chat.transcript import Transcript
from chatlm.tui.chat.turn_view import TurnView
from chatlm.types.conversations import ContextPolicy, Turn
from chatlm.types.messages import Message
from chatlm.types.replies import Reply, StopReason, Usage
from tests.tui.support import plain, until

USAGE = Usage(20, 0, 48, 0.25, 2.35)
MOMENT = datetime(2026, 10, 5, 12, 0, tzinfo=UTC)


def turn(
    number: int,
    *texts: str,
    message: str = "",
    context_policy: ContextPolicy = ContextPolicy.AUTO,
    summary: str = "",
) -> Turn:
    """A turn with one reply for each text."""
    replies = tuple(
        Reply(number * 10 + version, version, text, StopReason.END, usage=USAGE, created=MOMENT)
        for version, text in enumerate(texts, start=1)
    )
    user = Message("user", message or f"Question {number}?")
    return Turn(number, number, user, replies, context_policy=context_policy, summary=summary)


def turns(count: int) -> list[Turn]:
    return [turn(number, f"Answer {number}.") for number in range(count)]


class Board(Screen[None]):
    AUTO_FOCUS = "TextArea"

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int | None]] = []
        """Commands, and the id of the turn that was selected then."""

    def compose(self) -> ComposeResult:
        yield Transcript()
        field = TextArea()
        field.styles.height = 3
        yield field

    async def action_command(self, name: str) -> None:
        transcript = self.query_one(Transcript)
        view = transcript.selected_view
        self.asked.append((name, view.turn.id if view else None))
        step = {"previous-version": -1, "next-version": 1}.get(name)
        if view and step and (reply := view.adjacent_version(step)):
            await transcript.update_turn(dataclasses.replace(view.turn, active_reply_id=reply.id))


class BoardApp(App[None]):
    def __init__(self, shown: Sequence[Turn]) -> None:
        super().__init__()
        self.shown = shown
        self.board = Board()

    async def on_mount(self) -> None:
        await self.push_screen(self.board)
        await self.transcript.show_turns(self.shown)

    @property
    def transcript(self) -> Transcript:
        return self.board.query_one(Transcript)

    @property
    def views(self) -> list[TurnView]:
        return list(self.transcript.query(TurnView))

    @property
    def selected(self) -> int | None:
        """Id of the turn that has the focus."""
        focused = self.board.focused
        return focused.turn.id if isinstance(focused, TurnView) else None


async def selects(pilot: Pilot[None], app: BoardApp, number: int) -> None:
    """Wait until the turn with this id has the focus."""
    await until(pilot, lambda: app.selected == number)


async def shows(pilot: Pilot[None], view: TurnView, text: str) -> None:
    """Wait until the view shows the text."""
    await until(pilot, lambda: text in plain(view))


async def settled(pilot: Pilot[None], app: BoardApp) -> None:
    """Wait until every turn is drawn where it belongs."""
    await until(pilot, lambda: all(view.region.height for view in app.views))


async def at_rest(pilot: Pilot[None], app: BoardApp) -> None:
    """Wait until the turns stay where they are: drawing more of them takes several refreshes."""
    places = None
    while (now := {view.turn.id: view.region for view in app.views}) != places:
        places = now
        await settled(pilot, app)
        await pilot.pause(0.02)


def line_of(view: TurnView) -> str:
    return plain(view.query_one(".line"))


def in_sight(app: BoardApp, view: TurnView) -> bool:
    return app.transcript.content_region.contains_region(view.region)
