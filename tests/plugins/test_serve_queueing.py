"""The line of work behind the endpoint: who is next, who is turned away, and how it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing

import pytest

from chatlm_serve.work_queue import QueueFull, ShuttingDown, WorkQueue


class Steps:
    """A generator's work, which goes on when it may."""

    def __init__(self, name: str, log: list[str], steps: int = 0) -> None:
        self.name = name
        self.log = log
        self.may_go_on = threading.Semaphore(steps)

    def make(self) -> Generator[str, None, None]:
        self.log.append(f"{self.name} begins")
        try:
            for number in range(3):
                self.may_go_on.acquire()
                yield f"{self.name}{number}"
        finally:
            self.log.append(f"{self.name} ends")


@pytest.fixture
async def line() -> AsyncIterator[WorkQueue]:
    line = WorkQueue(1)
    yield line
    line.stop()
    await asyncio.to_thread(line.close)


async def everything(events: AsyncGenerator[str, None]) -> list[str]:
    return [event async for event in events]


async def test_first_come_first_served(line: WorkQueue) -> None:
    log: list[str] = []
    a, b = Steps("a", log), Steps("b", log)
    both = [asyncio.create_task(everything(line.stream(steps.make))) for steps in (a, b)]
    await asyncio.sleep(0)
    for _ in range(3):
        b.may_go_on.release()
    for _ in range(3):
        a.may_go_on.release()
    assert await asyncio.gather(*both) == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]
    assert log == ["a begins", "a ends", "b begins", "b ends"]


async def test_a_reply_that_cannot_be_ended_delays_no_other(line: WorkQueue) -> None:
    def cannot_end() -> Generator[str, None, None]:
        try:
            while True:
                yield "a"
        finally:
            raise RuntimeError("no more threads")

    broken = line.stream(cannot_end)
    assert await anext(broken) == "a"
    await broken.aclose()
    later = Steps("b", [], steps=3)
    assert await everything(line.stream(later.make)) == ["b0", "b1", "b2"]


async def test_a_full_queue_accepts_no_one_until_one_leaves(line: WorkQueue) -> None:
    log: list[str] = []
    a, b, c = (Steps(name, log) for name in "abc")
    running = line.stream(a.make)
    a.may_go_on.release()
    assert await anext(running) == "a0"
    waiting = asyncio.create_task(everything(line.stream(b.make)))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await everything(line.stream(c.make))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    later = asyncio.create_task(everything(line.stream(c.make)))
    await asyncio.sleep(0)
    await running.aclose()
    for steps in (a, c, c, c):
        steps.may_go_on.release()
    assert await later == ["c0", "c1", "c2"]
    assert log == ["a begins", "a ends", "c begins", "c ends"]  # a after one step more, b never


async def test_what_a_generator_raises_is_raised(line: WorkQueue) -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise ValueError("no more")

    async with aclosing(line.stream(failing)) as events:
        assert await anext(events) == 1
        with pytest.raises(ValueError, match="no more"):
            await anext(events)

    def broken() -> Generator[int, None, None]:
        raise ValueError("not even one")

    with pytest.raises(ValueError, match="not even one"):
        await anext(line.stream(broken))


async def test_closing_notifies_all_that_wait(line: WorkQueue) -> None:
    log: list[str] = []
    a, b, c = (Steps(name, log) for name in "abc")
    both = [asyncio.create_task(everything(line.stream(steps.make))) for steps in (a, b)]
    await asyncio.sleep(0)
    line.stop()
    for task in both:
        with pytest.raises(ShuttingDown):
            await task
    with pytest.raises(ShuttingDown):
        await everything(line.stream(c.make))
    a.may_go_on.release()
    await asyncio.to_thread(line.close)
    assert log in (["a begins", "a ends"], [])


async def test_an_ended_stream_occupies_no_slot_however_slowly_it_is_read(line: WorkQueue) -> None:
    log: list[str] = []
    a, b, c = (Steps(name, log, steps=3) for name in "abc")
    slow = [line.stream(steps.make) for steps in (a, b)]
    assert [await anext(events) for events in slow] == ["a0", "b0"]
    async with asyncio.timeout(5):
        while log[-1] != "b ends":
            await asyncio.sleep(0.001)
    assert await everything(line.stream(c.make)) == ["c0", "c1", "c2"]
    assert await everything(slow[0]) == ["a1", "a2"]
