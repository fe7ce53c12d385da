"""An engine that fails in any way closes no screen."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path

from textual.pilot import Pilot

from chatlm.types.events import Prefill
from chatlm.types.messages import Message
from chatlm.types.requests import Prompt, Request
from tests.tui.support import (
    StillEngine,
    app_of,
    idle,
    make_app,
    newest,
    plain,
    say,
    until,
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


class Broken(StillEngine):
    """Fails in everything but a stream, and not in words."""

    def preview(self, request: Request) -> Prompt:
        raise ValueError("odd")

    def count_tokens(self, messages: Iterable[Message]) -> int:
        raise ValueError("odd")

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        raise ValueError("odd")
        yield


async def test_an_engine_that_breaks_takes_no_screen_away(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("text")
    async with make_app(Broken("Hi.")).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        assert "Hi." in plain(newest(pilot))
        for command in ("context", "preview", "xray", "summarise", "replay", "settings", "system"):
            await run(pilot, command)
            await pilot.pause(0.05)
            await leave(pilot)
        await run(pilot, "attach", str(file))
        await pilot.press("enter")
        await until(pilot, lambda: newest(pilot).turn.position == 1)
        await idle(pilot)
        assert "Hi." in plain(newest(pilot))
