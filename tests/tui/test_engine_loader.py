"""The engine is loaded once, in a thread, and loading can be abandoned."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import Cancelled, ModelError
from chatlm.tui.engine_loader import EngineLoader, EngineState, Failed, Loading, Ready
from tests.waiting import PATIENCE


def test_the_engine_is_opened_once_for_all_that_wait() -> None:
    states: list[EngineState] = []
    engine = ScriptedEngine()

    def open_engine(model: str, report: Callable[[str], None]) -> ScriptedEngine:
        report("reading")
        return engine

    loader = EngineLoader(open_engine, states.append)
    threading.Timer(0.1, lambda: loader.start("m")).start()
    assert loader.wait(threading.Event()) is engine
    deadline = time.monotonic() + PATIENCE
    while len(states) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert states == [Loading("m", "reading"), Ready(engine.info)]
    loader.close()
    assert engine.closed


def test_waiting_for_the_engine_can_be_cancelled() -> None:
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
