"""Every screen opens in a tiny terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatlm.engines.scripted import ScriptedEngine
from tests.tui.support import (
    idle,
    leave,
    make_app,
    newest,
    plain,
    run,
    say,
)


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
