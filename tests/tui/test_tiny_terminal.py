"""Every screen opens in a tiny terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot

from chatlm.engines.scripted import ScriptedEngine
from tests.tui.support import (
    app_of,
    idle,
    make_app,
    newest,
    plain,
    say,
)


async def run(pilot: Pilot[None], command: str, argument: str = "") -> None:
    await app_of(pilot).chat_screen.action_command(command, argument)
    await pilot.pause()


async def leave(pilot: Pilot[None]) -> None:
    """Close whatever is over the chat."""
    for _ in range(4):
        if pilot.app.screen is app_of(pilot).chat_screen:
            return
        await pilot.press("escape")
        await pilot.pause()
    raise AssertionError(f"{pilot.app.screen} does not close")


@pytest.mark.parametrize("size", [(20, 5), (3, 2)])
async def test_every_screen_opens_in_a_tiny_terminal(size: tuple[int, int], home: Path) -> None:
    table = "# Hi\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\ncode\n```\n> - 漢字"
    async with make_app(ScriptedEngine(table, context=500)).run_test(size=size) as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        for command in (
            *("chats", "search", "help", "palette", "settings", "system", "theme", "context"),
            *("preview", "xray", "details", "replay", "model", "rename", "export", "edit"),
            "plugins",
        ):
            await run(pilot, command)
            await leave(pilot)
        await pilot.resize_terminal(160, 48)
        await pilot.pause()
        assert "code" in plain(newest(pilot))
