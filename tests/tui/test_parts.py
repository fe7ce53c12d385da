"""The parts that need no screen: labels, the status line, the turn's worker, the loader."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import Cancelled, ModelError
from chatlm.hub.jobs import STAGE_LABELS, describe_progress
from chatlm.tui import formatting
from chatlm.tui.chat.live_turn import TextStreamed, TurnEnded, TurnMessage, run_turn
from chatlm.tui.chat.status import Status, status_line
from chatlm.tui.engine_loader import EngineLoader, EngineState, Failed, Loading, Ready
from chatlm.tui.workers import UPDATES_PER_SECOND
from chatlm.types.events import Delta, Finished, SessionEvent
from chatlm.types.messages import Message as Said
from chatlm.types.messages import Reply, StopReason, Turn, Usage
from tests.tui.support import StillEngine


def turn_with(*replies: Reply) -> Turn:
    return Turn(1, 0, Said("user", "Hello"), replies)


def test_every_end_has_a_label() -> None:
    assert set(formatting.STOP_LABELS) == {*StopReason, None}
    for reason in (*StopReason, None):
        line = formatting.stop_text(Reply(1, 1, "x", reason))
        assert (line == "") is (reason is StopReason.END)


def test_the_parts_of_the_line_below_a_reply() -> None:
    end = Reply(2, 2, "x", StopReason.END, usage=Usage(10, 0, 1204, 0.5, 38.5))
    first = Reply(1, 1, "y", StopReason.CANCELLED, usage=Usage(10, 0, 1))
    assert (formatting.stop_text(None), formatting.stop_text(first)) == ("not answered", "stopped")
    assert formatting.version_text(turn_with(first, end)) == "version 2 of 2"
    assert formatting.version_text(turn_with(first)) == formatting.version_text(turn_with()) == ""
    assert formatting.reply_cost(end) == "1,204 tokens · 31.2 tokens/s"
    assert (formatting.reply_cost(first), formatting.reply_cost(None)) == ("1 token", "")
    adapted = Reply(3, 3, "z", StopReason.END, adapter="pirate", usage=Usage(10, 0, 1))
    assert formatting.reply_cost(adapted) == "adapter pirate · 1 token"


READY = Ready(StillEngine().info)


def test_the_status_line_at_80_columns_says_all() -> None:
    status = Status(312, "31.2 tokens/s", "stopped")
    line = status_line(READY, status, 78)
    assert line.split("  ")[0] == "smollm2-135m-instruct · cpu bfloat16"
    assert line.endswith("  31.2 tokens/s · stopped")
    assert status_line(Loading("m"), Status(), 30) == "m · loading".ljust(30)
    words = status_line(READY, status, 78, ("adapter pirate",))
    assert words.split("  ")[0].endswith("-instruct · adapter pirate · cpu bfloat16")
    assert "not loaded" in status_line(Failed("m", ModelError("no")), Status(), 30)


@given(st.integers(0, 130), st.one_of(st.just(READY), st.builds(Loading, st.text(max_size=80))))
def test_the_status_line_fits_any_width(width: int, engine: EngineState) -> None:
    status = Status(10**6, "99.9 tokens/s", reason="stopped")
    assert cell_len(status_line(engine, status, width)) == width


def test_the_most_important_parts_stay() -> None:
    status = Status(312, "31.2 tokens/s", "stopped")
    assert status_line(READY, status, 40).split() == ["smollm2-135m-instruct", "stopped"]


def fast(count: int, then: Callable[[], None] = lambda: None) -> Generator[SessionEvent]:
    for number in range(count):
        yield Delta(f"{number} ", usage=Usage(1, 0, number + 1))
        time.sleep(0.0005)
    then()
    yield Finished(StopReason.END, Usage(1, 0, count))


def test_tokens_are_gathered() -> None:
    posted: list[TurnMessage] = []
    started = time.monotonic()
    run_turn(lambda: fast(600), threading.Event(), posted.append)
    seconds = time.monotonic() - started
    grown = [message for message in posted if isinstance(message, TextStreamed)]
    assert "".join(message.text for message in grown) == "".join(f"{n} " for n in range(600))
    assert len(grown) <= seconds * UPDATES_PER_SECOND + 2
    assert grown[-1].usage.completion_tokens == 600
    assert isinstance(posted[-1], TurnEnded)


def test_stopping_closes_the_turn_in_its_own_thread() -> None:
    closed_in: list[threading.Thread] = []
    stop = threading.Event()
    pulled: list[int] = []

    def endless() -> Generator[SessionEvent]:
        try:
            while True:
                pulled.append(1)
                yield Delta("x ", usage=Usage(1, 0, len(pulled)))
        finally:
            closed_in.append(threading.current_thread())

    posted: list[TurnMessage] = []
    worker = threading.Thread(target=run_turn, args=(endless, stop, posted.append))
    worker.start()
    stop.set()
    worker.join(5)
    assert not worker.is_alive()
    assert closed_in == [worker]
    assert isinstance(posted[-1], TurnEnded)


def test_an_error_in_the_turn_becomes_a_message() -> None:
    def broken() -> None:
        raise ValueError("odd")

    posted: list[TurnMessage] = []
    run_turn(lambda: fast(1, broken), threading.Event(), posted.append)
    ended = posted[-1]
    assert isinstance(ended, TurnEnded)
    assert ended.error is not None
    assert "ValueError: odd" in ended.error.message


def test_the_loader_opens_once_and_all_wait_for_it() -> None:
    states: list[EngineState] = []
    engine = ScriptedEngine()

    def open_engine(model: str, report: Callable[[str], None]) -> ScriptedEngine:
        report("reading")
        return engine

    loader = EngineLoader(open_engine, states.append)
    threading.Timer(0.1, lambda: loader.start("m")).start()
    assert loader.wait(threading.Event()) is engine
    deadline = time.monotonic() + 5
    while len(states) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert states == [Loading("m", "reading"), Ready(engine.info)]
    loader.close()
    assert engine.closed


def test_waiting_for_the_engine_can_be_given_up() -> None:
    loader = EngineLoader(lambda model, report: ScriptedEngine(), lambda state: None)
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Cancelled):
        loader.wait(stop)


def test_a_load_that_is_abandoned_ends_at_its_next_step() -> None:
    reached: list[str] = []

    def open_engine(model: str, report: Callable[[str], None]) -> ScriptedEngine:
        report("first")
        loader.cancel()
        report("second")
        reached.append("too far")
        return ScriptedEngine()

    loader = EngineLoader(open_engine, lambda state: None)
    loader.start("m")
    assert loader.cancel(5)
    assert reached == []


def test_any_failure_to_load_becomes_an_error_with_a_hint() -> None:
    states: list[EngineState] = []

    def open_engine(model: str, report: Callable[[str], None]) -> ScriptedEngine:
        raise OSError("disk")

    loader = EngineLoader(open_engine, states.append)
    loader.start("m")
    assert loader.cancel(5)
    (state,) = states
    assert isinstance(state, Failed)
    assert "OSError: disk" in state.error.message
    assert state.error.hint
    with pytest.raises(ModelError):
        loader.wait(threading.Event())


def test_progress_in_words() -> None:
    assert describe_progress("download", 1, 4) == "downloading 25 %"
    assert describe_progress("download", 1, None) == "downloading"
    assert set(STAGE_LABELS) == {"wait", "download", "unpack", "convert", "check"}
