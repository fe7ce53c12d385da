"""Generators in threads, ordered writes, errors."""

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
"""Makes the generator, in the thread that pulls it."""


@dataclass
class ValuesYielded(Message):
    """Values the generator yielded since the last such message."""

    values: tuple[object, ...]
    source: threading.Event
    """The `stop` that was given to `pull`; tells whose values these are."""


@dataclass
class GeneratorEnded(Message):
    """The generator is closed, and nothing comes any more."""

    error: ChatlmError | None
    """What made it end early, unless it was stopped."""
    source: threading.Event


def single_value(compute: Callable[[], object]) -> Generator[object, None, None]:
    """The generator of a single value."""
    yield compute()


def run_generator(
    factory: GeneratorFactory, stop: threading.Event, post: Callable[[Message], object]
) -> None:
    """Pull the generator to its end, or until `stop` is set; the last message is `PullEnded`."""
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
    """No key waits for a slow or locked disk, and what was asked for first is done first."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "chatlm-writes")
        self._last: Future[Any] | None = None

    @property
    def pending(self) -> bool:
        """Whether something is not yet done."""
        return self._last is not None and not self._last.done()

    def submit(self, change: Callable[[], T]) -> asyncio.Future[T]:
        """Have a change made after those that were put before; it is made in any case.

        Args:
            change: runs in the thread.

        Returns:
            what it gives or raises, to be awaited in the screen's thread.
        """
        asked = self._executor.submit(change)
        self._last = asked
        return asyncio.shield(asyncio.wrap_future(asked))

    def wait(self, seconds: float | None = None) -> None:
        """Let all that was put be done, in any thread; None waits as long as it takes."""
        if self._last is not None:
            concurrent.futures.wait([self._last], seconds)


log = logging.getLogger(__name__)


def to_user_error(error: Exception, description: str) -> ChatlmError | None:
    """What to tell the person, which goes to the log too; None for what was stopped on purpose.

    Args:
        error: what was raised.
        description: what failed, for the log.
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
"""More than this no eye sees, and each costs a layout."""
