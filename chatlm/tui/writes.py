"""Makes changes to the chats in a thread, one after the other; knows no chat and no widget."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Writes:
    """No key waits for a slow or locked disk, and what was asked for first is done first."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "chatlm-writes")
        self._last: Future[Any] | None = None

    @property
    def pending(self) -> bool:
        """Whether something is not yet done."""
        return self._last is not None and not self._last.done()

    def put(self, change: Callable[[], T]) -> asyncio.Future[T]:
        """Have a change made after those that were put before; it is made in any case.

        Args:
            change: runs in the thread.

        Returns:
            what it gives or raises, to be awaited in the screen's thread.
        """
        asked = self._thread.submit(change)
        self._last = asked
        return asyncio.shield(asyncio.wrap_future(asked))

    def wait(self, seconds: float | None = None) -> None:
        """Let all that was put be done, in any thread; None waits as long as it takes."""
        if self._last is not None:
            concurrent.futures.wait([self._last], seconds)
