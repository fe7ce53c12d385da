"""A line of work for one thread, first come, first served; it knows nothing of what is done."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Busy(Exception):
    """The line is full."""


class Stopping(Exception):
    """Nothing is done any more."""


class Line:
    """Runs generators in a thread of its own, one at a time, in the order they came.

    One that has ended is out of the line, however slowly its events are read.

    All methods but `close` are for the event loop's thread.

    Args:
        most: that may run and wait at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[_Job] = set()
        self._stopping = False
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    async def events(self, make: Callable[[], Generator[T, None, None]]) -> AsyncGenerator[T, None]:
        """What a generator yields, when it is its turn.

        Closing it takes the generator out of the line, or closes it after what it is about to
        yield.

        Args:
            make: makes the generator; it too is called in the line's thread.

        Raises:
            Busy: too many are in the line.
            Stopping: `stop` was called, perhaps meanwhile.
            Exception: what the generator raises.
        """
        if self._stopping:
            raise Stopping
        if len(self._open) >= self._most:
            raise Busy
        job = _Job(make, self._open.discard)
        self._open.add(job)
        self._jobs.put(job)
        try:
            while (event := await job.news.get()) is not _END:
                if isinstance(event, _Failure):
                    raise event.error
                yield event
        finally:
            job.cancelled.set()
            self._open.discard(job)

    def stop(self) -> None:
        """End all that runs and waits."""
        self._stopping = True
        for job in self._open:
            job.cancelled.set()
            job.news.put_nowait(_Failure(Stopping()))

    def close(self) -> None:
        """Wait until the thread has ended; call `stop` before."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()


class _Failure:
    def __init__(self, error: Exception) -> None:
        self.error = error


_END: Any = object()


class _Job:
    def __init__(
        self, make: Callable[[], Generator[Any, None, None]], leave: Callable[[_Job], None]
    ) -> None:
        self._make = make
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self.news: asyncio.Queue[Any] = asyncio.Queue()
        self.cancelled = threading.Event()

    def run(self) -> None:
        if self.cancelled.is_set():
            return
        try:
            with closing(self._make()) as events:
                for event in events:
                    if self.cancelled.is_set():
                        return
                    self._in_loop(self.news.put_nowait, event)
            self._end(_END)
        except Exception as error:
            self._end(_Failure(error))

    def _end(self, news: Any) -> None:
        self._in_loop(self._leave, self)
        self._in_loop(self.news.put_nowait, news)

    def _in_loop(self, function: Callable[[Any], object], argument: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, argument)
        except RuntimeError:  # the loop has ended, and nobody listens
            self.cancelled.set()
