"""A turn runs in a worker: tokens are gathered, stopping closes it, errors become messages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator

from chatlm.store.store import Store
from chatlm.tui.chat.live_turn import TextStreamed, TurnEnded, TurnMessage, run_turn
from chatlm.tui.workers import UPDATES_PER_SECOND
from chatlm.types.events import Delta, Finished, SessionEvent
from chatlm.types.replies import StopReason, Usage
from tests.waiting import PATIENCE


def fast(count: int, then: Callable[[], None] = lambda: None) -> Generator[SessionEvent]:
    for number in range(count):
        yield Delta(f"{number} ", usage=Usage(1, 0, number + 1))
        time.sleep(0.0005)
    then()
    yield Finished(StopReason.END, Usage(1, 0, count))


def test_tokens_are_gathered() -> None:
    posted: list[TurnMessage] = []
    started = time.monotonic()
    run_turn(lambda: fast(600), threading.Event(), posted.append, Store(None).turn)
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
    worker = threading.Thread(
        target=run_turn, args=(endless, stop, posted.append, Store(None).turn)
    )
    worker.start()
    stop.set()
    worker.join(PATIENCE)
    assert not worker.is_alive()
    assert closed_in == [worker]
    assert isinstance(posted[-1], TurnEnded)


def test_an_error_in_the_turn_becomes_a_message() -> None:
    def broken() -> None:
        raise ValueError("odd")

    posted: list[TurnMessage] = []
    run_turn(lambda: fast(1, broken), threading.Event(), posted.append, Store(None).turn)
    ended = posted[-1]
    assert isinstance(ended, TurnEnded)
    assert ended.error is not None
    assert "ValueError: odd" in ended.error.message
