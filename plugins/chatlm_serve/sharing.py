"""One engine's batch, shared by generators that run in turns in one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator

from chatlm import Batch, EngineEvent, Finished, Request


class SharedBatch:
    """Gives each request the events that are its own.

    Args:
        batch: that all requests go into; closed with this.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._came: dict[int, deque[EngineEvent | Exception]] = {}

    def stream(self, request: Request) -> Generator[EngineEvent | None, None, None]:
        """As `Engine.stream`; None where something was done, perhaps for others, and nothing came.

        At most `Batch.at_once` may run at a time.
        """
        number = self._batch.add(request)
        came = self._came[number] = deque()
        try:
            while True:
                if not came:
                    for other, event in self._batch.step():
                        self._came[other].append(event)
                event_or_none = came.popleft() if came else None
                if isinstance(event_or_none, Exception):
                    raise event_or_none
                yield event_or_none
                if isinstance(event_or_none, Finished):
                    return
        finally:
            self._batch.drop(number)
            del self._came[number]

    def close(self) -> None:
        """Drop all."""
        self._batch.close()
