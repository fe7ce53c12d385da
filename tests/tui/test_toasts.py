"""Toasts have a place of their own: they cover neither the transcript nor an open card."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from textual.geometry import Region
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets._toast import Toast

from chatlm.engines.scripted import ScriptedEngine
from chatlm.tui.chat.chat_view import ChatView
from chatlm.tui.chat.transcript import Transcript
from tests.tui.support import chat_of, idle, make_app, newest, say, until

LONG = "A word.\n\n" * 60


async def show_toasts(pilot: Pilot[None], count: int = 1) -> list[Region]:
    """Let toasts come; where they are."""
    for number in range(count):
        pilot.app.notify(f"Toast {number}\nwith a hint.", severity="warning", markup=False)

    def regions() -> list[Region]:
        return [toast.region for toast in pilot.app.screen.query(Toast)]

    await until(pilot, lambda: len(regions()) == count and any(regions()))
    return regions()


def covered(pilot: Pilot[None], toasts: list[Region]) -> Iterator[Widget]:
    """The widgets of the topmost screen that lie below a toast, the racks aside."""
    for widget in pilot.app.screen.query("ChatView, ChatsPanel, StatusBar, .card, #--container"):
        if any(widget.region.overlaps(toast) for toast in toasts):
            yield widget


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
async def test_toasts_cover_nothing(size: tuple[int, int]) -> None:
    app = make_app(ScriptedEngine("Hi."))
    async with app.run_test(size=size, notifications=True) as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        below = chat_of(pilot).composer.region
        assert not list(covered(pilot, await show_toasts(pilot, 2)))
        assert chat_of(pilot).composer.region == below, "what is written stays in its place"
        app.clear_notifications()
        await until(pilot, lambda: chat_of(pilot).view.query_one(Transcript).region.y == 1)


@pytest.mark.parametrize("command", ["palette", "settings", "help", "context"])
async def test_toasts_cover_no_card(command: str) -> None:
    app = make_app(ScriptedEngine("Hi."))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await app.chat_screen.action_command(command)
        await until(pilot, lambda: app.screen is not app.chat_screen)
        assert not list(covered(pilot, await show_toasts(pilot)))


async def test_many_toasts_leave_the_chat_its_room() -> None:
    app = make_app(ScriptedEngine("Hi."))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await show_toasts(pilot, 12)
        assert chat_of(pilot).view.region.height > 12
        assert app.screen.query_one(ChatView).composer.region.height == 3


async def test_the_end_of_a_long_chat_stays_in_sight() -> None:
    app = make_app(ScriptedEngine(LONG))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        transcript = chat_of(pilot).view.query_one(Transcript)
        await show_toasts(pilot)
        await until(pilot, lambda: transcript.scroll_y == transcript.max_scroll_y)
        assert newest(pilot).query_one(".line").region.bottom <= transcript.region.bottom
        transcript.scroll_to(y=20, animate=False, immediate=True)
        await pilot.pause()
        app.clear_notifications()
        await until(pilot, lambda: transcript.region.y == 1)
        assert transcript.scroll_y == 20
