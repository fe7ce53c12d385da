"""Run generators and writes in threads, and turn their errors into messages."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

from textual.message import Message

from chatlm.errors import Cancelled, ChatlmError, EngineError

GeneratorFactory = Callable[[], Generator[object, None, None]]
"""Creates the generator in the thread that pulls it."""


@dataclass
class ValuesYielded(Message):
    """Values yielded since the last such message."""

    values: tuple[object, ...]
    source: threading.Event
    """The `stop` event given to `run_generator`, which identifies the source."""


@dataclass
class GeneratorEnded(Message):
    """The generator has ended and is closed."""

    error: ChatlmError | None
    """The error that ended it, unless it was stopped."""
    source: threading.Event


def single_value(compute: Callable[[], object]) -> Generator[object, None, None]:
    """Yield a single computed value."""
    yield compute()


def run_generator(
    factory: GeneratorFactory, stop: threading.Event, post: Callable[[Message], object]
) -> None:
    """Pull a generator to its end, or until `stop` is set; finally post `GeneratorEnded`."""
    error: ChatlmError | None = None
    waiting: list[object] = []
    posted_at = 0.0
    try:
        with closing(factory()) as values:
            for value in values:
                if stop.is_set():
                    break
                waiting.append(value)
                if time.monotonic() - posted_at >= 1 / UPDATES_PER_SECOND:
                    post(ValuesYielded(tuple(waiting), stop))
                    waiting.clear()
                    posted_at = time.monotonic()
    except Exception as problem:
        error = to_user_error(problem, "work on a card")
    if waiting:
        post(ValuesYielded(tuple(waiting), stop))
    post(GeneratorEnded(error, stop))


T = TypeVar("T")


class WriteQueue:
    """Runs writes in one thread, in order, so that the UI never waits for the disk."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "chatlm-writes")
        self.last: Future[Any] | None = None
        """The write that was queued last."""

    @property
    def pending(self) -> bool:
        """Whether a write is pending."""
        return self.last is not None and not self.last.done()

    def submit(self, change: Callable[[], T]) -> asyncio.Future[T]:
        """Queue a write; it runs even if the caller is cancelled.

        Args:
            change: the write, run in the thread.

        Returns:
            a future of its result, to be awaited in the UI thread.
        """
        asked = self._executor.submit(change)
        self.last = asked
        return asyncio.shield(asyncio.wrap_future(asked))

    def wait(self, seconds: float | None = None) -> None:
        """Wait for all queued writes, for at most `seconds`; callable from any thread."""
        if self.last is not None:
            concurrent.futures.wait([self.last], seconds)


class ReadQueue:
    """Runs reads in one thread, each after the writes that were queued before it.

    Args:
        writes: the writes.
    """

    def __init__(self, writes: WriteQueue) -> None:
        self._writes = writes
        self._executor = ThreadPoolExecutor(1, "chatlm-reads")

    def submit(self, read: Callable[[], T]) -> asyncio.Future[T]:
        """Queue a read; cancelling the future leaves it out if it has not begun.

        Returns:
            a future of its result, to be awaited in the UI thread.
        """
        earlier = self._writes.last

        def run() -> T:
            if earlier is not None:
                concurrent.futures.wait([earlier])
            return read()

        return asyncio.wrap_future(self._executor.submit(run))


log = logging.getLogger(__name__)


def to_user_error(error: Exception, description: str) -> ChatlmError | None:
    """Log an error and return it for the user; None if it was cancelled on purpose.

    Args:
        error: the raised error.
        description: names the action in the log.
    """
    if isinstance(error, Cancelled):
        log.info("%s: stopped", description)
        return None
    if isinstance(error, ChatlmError):
        log.error("%s failed: %s", description, error)
        return error
    log.error("%s failed", description, exc_info=error)
    return EngineError(
        f"Something went wrong: {type(error).__name__}: {error}",
        hint="Your messages are saved. `chatlm logs` has the details.",
    )


UPDATES_PER_SECOND = 30
"""Maximum updates per second; each costs a layout."""
