"""An engine that fails in any way closes no screen."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path

from chatlm.types.events import Prefill
from chatlm.types.messages import Message
from chatlm.types.requests import Prompt, Request
from tests.tui.support import (
    StillEngine,
    idle,
    leave,
    make_app,
    newest,
    plain,
    run,
    say,
    until,
)


class Broken(StillEngine):
    """Fails in everything but a stream, and not in words."""

    def preview(self, request: Request) -> Prompt:
        raise ValueError("odd")

    def count_tokens(self, messages: Iterable[Message]) -> int:
        raise ValueError("odd")

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        raise ValueError("odd")
        yield


async def test_a_broken_engine_closes_no_screen(tmp_path: Path) -> None:
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
