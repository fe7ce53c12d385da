"""First come first served worker thread; shared batch."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from chatlm import Batch, EngineEvent, Finished, Request

T = TypeVar("T")


class QueueFull(Exception):
    """The line is full."""


class ShuttingDown(Exception):
    """Nothing is done any more."""


class WorkQueue:
    """Runs generators in a thread of its own, begun in the order they came.

    Those that run are asked in turns for what comes next; None is passed over. One that has ended
    is out of the line, however slowly its events are read.

    All methods but `close` are for the event loop's thread.

    Args:
        max_waiting: how many may wait.
        max_running: how many run.
    """

    def __init__(self, max_waiting: int, max_running: int = 1) -> None:
        self._max_jobs = max_waiting + max_running
        self._max_running = max_running
        self._open_jobs: set[_Job] = set()
        self._stopping = False
        self._inbox: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    async def stream(
        self, factory: Callable[[], Generator[T | None, None, None]]
    ) -> AsyncGenerator[T, None]:
        """What a generator yields, when it is its turn.

        Closing it takes the generator out of the line, or closes it after what it is about to
        yield.

        Args:
            factory: makes the generator; it too is called in the line's thread.

        Raises:
            Busy: too many are in the line.
            Stopping: `stop` was called, perhaps meanwhile.
            Exception: what the generator raises.
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

    def check_capacity(self) -> None:
        """See that there is room for one more.

        Raises:
            Busy, Stopping: as `events`.
        """
        if self._stopping:
            raise ShuttingDown
        if len(self._open_jobs) >= self._max_jobs:
            raise QueueFull

    def stop(self) -> None:
        """End all that runs and waits."""
        self._stopping = True
        for job in self._open_jobs:
            job.cancelled.set()
            job.output.put_nowait(_Failure(ShuttingDown()))

    def close(self) -> None:
        """Wait until the thread has ended; call `stop` before."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        running: list[_Job] = []
        closed = False
        while not closed or running:
            while not closed and len(running) < self._max_running:
                try:
                    job = self._inbox.get(block=not running)
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


_END: Any = object()


class _Job:
    def __init__(
        self, factory: Callable[[], Generator[Any, None, None]], on_done: Callable[[_Job], None]
    ) -> None:
        self._factory = factory
        self._on_done = on_done
        self._loop = asyncio.get_running_loop()
        self.output: asyncio.Queue[Any] = asyncio.Queue()
        self.cancelled = threading.Event()
        self._generator: Generator[Any, None, None] | None = None

    def step(self) -> bool:
        """Pass on what comes next; whether more may come."""
        if self.cancelled.is_set():
            if self._generator is not None:
                self._generator.close()
            return False
        try:
            if self._generator is None:
                self._generator = self._factory()
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
        except RuntimeError:  # the loop has ended, and nobody listens
            self.cancelled.set()


class SharedBatch:
    """Gives each request the events that are its own.

    Args:
        batch: that all requests go into; closed with this.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._received: dict[int, deque[EngineEvent | Exception]] = {}

    def stream(self, request: Request) -> Generator[EngineEvent | None, None, None]:
        """As `Engine.stream`; None where something was done, perhaps for others, and nothing came.

        At most `Batch.at_once` may run at a time.
        """
        number = self._batch.add(request)
        came = self._received[number] = deque()
        try:
            while True:
                if not came:
                    for other, event in self._batch.step():
                        self._received[other].append(event)
                event_or_none = came.popleft() if came else None
                if isinstance(event_or_none, Exception):
                    raise event_or_none
                yield event_or_none
                if isinstance(event_or_none, Finished):
                    return
        finally:
            self._batch.cancel(number)
            del self._received[number]

    def close(self) -> None:
        """Drop all."""
        self._batch.close()
