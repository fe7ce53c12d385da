"""A FIFO job queue, one thread that creates jobs and one that steps them, and a shared batch."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from chatlm import Batch, EngineEvent, Finished, Request

log = logging.getLogger(f"chatlm.plugins.{__name__}")

T = TypeVar("T")

_END: Any = object()
"""Marks the end of a job's output."""


class QueueFull(Exception):
    """The queue is full."""


class ShuttingDown(Exception):
    """The server is shutting down."""


class WorkQueue:
    """Creates generators in one thread and runs them in another, in the order they arrive.

    Running generators take turns, one step each; None is not passed on. A finished one leaves the
    queue at once, however slowly its output is read. Slow work for one generator alone belongs in
    its factory, where it delays no running generator.

    All methods except `close` must be called in the event loop's thread.

    Args:
        max_waiting: maximum number of waiting generators.
        max_running: maximum number of running generators.
    """

    def __init__(self, max_waiting: int, max_running: int = 1) -> None:
        self._max_jobs = max_waiting + max_running
        self._max_running = max_running
        self._open_jobs: set[_Job] = set()
        self._stopping = False
        self._inbox: SimpleQueue[_Job | None] = SimpleQueue()
        self._created: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._create, self._run)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def load(self) -> tuple[int, int]:
        """How many generators run, at most, and how many wait."""
        count = len(self._open_jobs)
        running = min(count, self._max_running)
        return running, count - running

    async def stream(
        self, factory: Callable[[], Generator[T | None, None, None]]
    ) -> AsyncGenerator[T, None]:
        """Queue a generator and yield its output.

        Closing the stream removes the generator from the queue, or closes it after its current
        step.

        Args:
            factory: creates the generator; may be slow.

        Raises:
            QueueFull: too many generators are waiting.
            ShuttingDown: `stop` was called.
            Exception: whatever the generator raises.
        """
        self.check_capacity()
        job = _Job(factory, self._open_jobs.discard)
        self._open_jobs.add(job)
        self._inbox.put(job)
        try:
            while (event := await job.output.get()) is not _END:
                if isinstance(event, _Failure):
                    raise event.error
                yield event
        finally:
            job.cancelled.set()
            self._open_jobs.discard(job)

    def check_capacity(self, count: int = 1) -> None:
        """Check that so many more generators can be queued.

        Raises:
            QueueFull: too many generators are waiting.
            ShuttingDown: `stop` was called.
        """
        if self._stopping:
            raise ShuttingDown
        if len(self._open_jobs) + count > self._max_jobs:
            raise QueueFull

    def stop(self) -> None:
        """Cancel all running and waiting generators."""
        self._stopping = True
        for job in self._open_jobs:
            job.cancelled.set()
            job.output.put_nowait(_Failure(ShuttingDown()))

    def close(self) -> None:
        """Wait until the threads have ended; call `stop` first."""
        self._inbox.put(None)
        for thread in self._threads:
            thread.join()

    def _create(self) -> None:
        while (job := self._inbox.get()) is not None:
            if job.create():
                self._created.put(job)
        self._created.put(None)

    def _run(self) -> None:
        running: list[_Job] = []
        closed = False
        while not closed or running:
            while not closed and len(running) < self._max_running:
                try:
                    job = self._created.get(block=not running)
                except Empty:
                    break
                if job is None:
                    closed = True
                else:
                    running.append(job)
            running = [job for job in running if job.step()]


class _Failure:
    def __init__(self, error: Exception) -> None:
        self.error = error


class _Job:
    def __init__(
        self, factory: Callable[[], Generator[Any, None, None]], on_done: Callable[[_Job], None]
    ) -> None:
        self._factory = factory
        self._on_done = on_done
        self._loop = asyncio.get_running_loop()
        self.output: asyncio.Queue[Any] = asyncio.Queue()
        self.cancelled = threading.Event()
        self._generator: Generator[Any, None, None]

    def create(self) -> bool:
        """Create the generator, and return whether it can run."""
        if self.cancelled.is_set():
            return False
        try:
            self._generator = self._factory()
        except Exception as error:
            self._finish(_Failure(error))
            return False
        return True

    def step(self) -> bool:
        """Run one step of the created generator, and return whether more may follow."""
        if self.cancelled.is_set():
            try:
                self._generator.close()
            except Exception:  # the thread has to go on for the others
                log.exception("a reply could not be ended")
            return False
        try:
            event = next(self._generator, _END)
        except Exception as error:
            self._finish(_Failure(error))
            return False
        if event is _END:
            self._finish(_END)
        elif event is not None:
            self._call_in_loop(self.output.put_nowait, event)
        return event is not _END

    def _finish(self, item: Any) -> None:
        self._call_in_loop(self._on_done, self)
        self._call_in_loop(self.output.put_nowait, item)

    def _call_in_loop(self, function: Callable[[Any], object], argument: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, argument)
        except RuntimeError:  # the loop is closed, so nobody reads the output
            self.cancelled.set()


class SharedBatch:
    """Shares an engine's batch between requests, each with its own stream of events.

    Args:
        batch: the batch; `close` closes it.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._received: dict[int, deque[EngineEvent | Exception]] = {}
        self._steps = 0

    def stream(self, request: Request) -> Generator[EngineEvent | None, None, None]:
        """Stream a reply like `Engine.stream`, with None after a step without an event for it.

        One stream moves the batch for all that take turns, so that none has to wait for several
        steps while others read their prompts. At most `Batch.max_concurrency` streams may be open
        at a time.
        """
        number = self._batch.add(request)
        events = self._received[number] = deque()
        seen = self._steps
        try:
            while True:
                if not events and seen == self._steps:
                    self._step()
                seen = self._steps
                event = events.popleft() if events else None
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self._batch.cancel(number)
            del self._received[number]

    def _step(self) -> None:
        self._steps += 1
        for owner, received in self._batch.step():
            self._received[owner].append(received)

    def close(self) -> None:
        """Cancel all requests and close the batch."""
        self._batch.close()
