"""Toasts lie over the beginning of the transcript: they move nothing and hide nothing needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from textual.geometry import Region
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Static
from textual.widgets._toast import Toast, ToastRack

from chatlm import Panel
from chatlm.engines.scripted import ScriptedEngine
from chatlm.tui.plugin_ui.regions import PluginPanel
from tests.tui.support import idle, make_app, say, until
from tests.tui.test_plugin_ui import Plugin, host_of


async def show_toasts(pilot: Pilot[None], count: int = 1) -> list[Region]:
    """Let toasts come; where they are."""
    for number in range(count):
        pilot.app.notify(f"Toast {number}\nwith a hint.", severity="warning", markup=False)

    def regions() -> list[Region]:
        return [toast.region for toast in pilot.app.screen.query(Toast)]

    await until(pilot, lambda: len(regions()) == count and any(regions()))
    return regions()


def covered(pilot: Pilot[None], toasts: list[Region]) -> Iterator[Widget]:
    """What must stay in sight but lies below a toast."""
    for widget in pilot.app.screen.query("#head, Composer, StatusBar, .card > Hints"):
        if any(widget.region.overlaps(toast) for toast in toasts):
            yield widget


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
async def test_toasts_cover_neither_header_nor_composer(size: tuple[int, int]) -> None:
    app = make_app(ScriptedEngine("Hi."))
    async with app.run_test(size=size, notifications=True) as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        before = places(pilot)
        assert not list(covered(pilot, await show_toasts(pilot, 2)))
        assert places(pilot) == before, "nothing moves when they come"
        app.clear_notifications()
        await until(pilot, lambda: not app.screen.query(Toast))
        assert places(pilot) == before, "nothing moves when they go"


def places(pilot: Pilot[None]) -> list[Region]:
    return [widget.region for widget in pilot.app.screen.query("ChatView, Transcript, Composer")]


@pytest.mark.parametrize("size", [(80, 24), (110, 30), (160, 48)])
async def test_toasts_leave_the_title_of_a_panel_in_sight(size: tuple[int, int]) -> None:
    panel = Panel("notes", "Notes", lambda ui: Static("What the panel says."))
    app = make_app(ScriptedEngine("Hi."), plugins=host_of(notes=Plugin(panel)))
    async with app.run_test(size=size, notifications=True) as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await app.chat_screen.action_command("notes")
        await until(pilot, lambda: app.screen.query(PluginPanel))
        shown = app.screen.query_one(PluginPanel)
        await until(pilot, lambda: shown.region.area)
        title = shown.region.split_horizontal(1)[0]
        app.notify("A toast that is so long that it has to wrap somewhere. " * 2, markup=False)
        await until(pilot, lambda: any(toast.region for toast in app.screen.query(Toast)))
        for toast in app.screen.query(Toast):
            assert not toast.region.overlaps(title)
            assert app.screen.region.contains_region(toast.region)
            assert size[0] < 100 or not toast.region.overlaps(shown.region)
        app.chat_screen.plugin_actions.regions.close_panel()
        await until(
            pilot,
            lambda: all(toast.region.right > size[0] - 5 for toast in app.screen.query(Toast)),
        )


@pytest.mark.parametrize("command", ["settings", "help", "context"])
async def test_toasts_leave_the_keys_of_a_card_in_sight(command: str) -> None:
    app = make_app(ScriptedEngine("Hi."))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await app.chat_screen.action_command(command)
        await until(pilot, lambda: app.screen is not app.chat_screen)
        assert not list(covered(pilot, await show_toasts(pilot)))


async def test_many_toasts_leave_the_composer_in_sight() -> None:
    app = make_app(ScriptedEngine("Hi."))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        shown = await show_toasts(pilot, 12)
        rack = app.screen.query_one(ToastRack).region
        assert rack.height <= 10
        assert not list(
            covered(pilot, [part for toast in shown if (part := toast.intersection(rack))])
        )
