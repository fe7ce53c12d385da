"""The work of a card ends with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import Cancelled
from chatlm.types.conversations import ContextPolicy
from chatlm.types.events import EngineEvent, Prefill
from chatlm.types.replies import StopReason
from chatlm.types.requests import Request
from tests.tui.support import (
    app_of,
    chat_of,
    idle,
    leave,
    make_app,
    newest,
    plain,
    run,
    say,
    until,
)
from tests.waiting import PATIENCE


class Slow(ScriptedEngine):
    """Stands still in each step until `go` is set."""

    def __init__(self, *replies: str) -> None:
        super().__init__(*replies)
        self.go = threading.Event()
        self.slow = False
        self.inside = 0

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        self.inside += 1
        try:
            for event in super().stream(request):
                yield event
                while self.slow and not self.go.wait(0.01):
                    yield Prefill(1, 2)
        finally:
            self.inside -= 1


@pytest.mark.parametrize("command", ["summarise", "replay"])
async def test_closing_a_card_ends_its_work(command: str) -> None:
    engine = Slow("Hi.", "Again.", "Last.")
    async with make_app(engine).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        engine.slow = True
        await run(pilot, command)
        await until(pilot, lambda: engine.inside)
        await leave(pilot)
        await until(pilot, lambda: not engine.inside)
        engine.slow = False
        await say(pilot, "More")
        await idle(pilot)
        assert "Last." in plain(newest(pilot))
        assert chat_of(pilot).conversation.turns[0].context_policy is ContextPolicy.AUTO


@pytest.mark.parametrize("command", ["summarise", "replay", "context"])
async def test_quitting_ends_the_work_of_a_card(command: str) -> None:
    engine = Slow("Hi.", "Again.")
    async with make_app(engine).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        engine.slow = True
        await run(pilot, command)
        if command == "context":
            await until(pilot, lambda: "read" in plain(pilot.app.screen))
            await pilot.press("end", "s")
        await until(pilot, lambda: engine.inside)
        await pilot.press("ctrl+q")
    ends = time.monotonic() + PATIENCE
    while engine.inside:
        assert time.monotonic() < ends
        time.sleep(0.01)


async def test_a_model_that_a_replay_loads_is_given_up_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loading, given_up = threading.Event(), threading.Event()
    engine = ScriptedEngine("Hi.")

    def opens(model: str, report: object) -> ScriptedEngine:
        if model != "other":
            return engine
        loading.set()
        assert callable(report)
        try:
            while True:
                report("downloading 3 %")
                time.sleep(0.01)
        except Cancelled:
            given_up.set()
            raise

    app = make_app(open_engine=opens)
    monkeypatch.setattr(app.services, "require_available", lambda model: None)
    async with app.run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await run(pilot, "replay", "other")
        await until(pilot, loading.is_set)
        await leave(pilot)
        await until(pilot, given_up.is_set)


async def test_another_model_is_loaded_while_the_old_one_is_in_use() -> None:
    opened: list[Slow] = []

    def opens(model: str, report: object) -> Slow:
        opened.append(Slow("Hi.", "Ho."))
        return opened[-1]

    async with make_app(open_engine=opens).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        for number in range(3):
            app_of(pilot).services.load_engine(f"model-{number}")
            await pilot.press("ctrl+g", "ctrl+r")
        await idle(pilot)
        await until(pilot, lambda: opened[-1].requests)
        assert all(engine.closed for engine in opened[:-1])
        assert newest(pilot).turn.replies[-1].stop_reason is StopReason.END
