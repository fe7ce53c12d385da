"""Answer several requests with one engine, at once or one after the other."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing

from chatlm.types.engine import Engine
from chatlm.types.events import EngineEvent, Finished
from chatlm.types.requests import Request


def stream_many(
    engine: Engine, requests: Iterable[Request]
) -> Generator[tuple[int, EngineEvent], None, None]:
    """Generate for several requests; yield each event with the index of its request.

    An engine that generates several at once needs less time in total; events of different requests
    then alternate. The replies are the same.

    Pulled and closed like `Engine.stream`; raises as it does. When one fails, no further request is
    started, and the running ones finish first.
    """
    waiting = iter(requests)
    failures: dict[int, Exception] = {}
    with closing(engine.batch()) as batch:
        while True:
            while len(batch) < batch.max_concurrency and not failures:
                request = next(waiting, None)
                if request is None:
                    break
                batch.add(request)
            if not len(batch):
                break
            for index, event in batch.step():
                if isinstance(event, Exception):
                    failures[index] = event
                else:
                    yield index, event
    if failures:
        raise failures[min(failures)]


class SequentialBatch:
    """A `Batch` that answers one request after the other by an engine's `stream`.

    Args:
        engine: without a way to answer several at once.
    """

    max_concurrency = 1

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: dict[int, Generator[EngineEvent, None, None]] = {}
        self._next_index = 0

    def __len__(self) -> int:
        return len(self._running)

    def add(self, request: Request) -> int:
        """Start a request; return its index."""
        index, self._next_index = self._next_index, self._next_index + 1
        self._running[index] = self._engine.stream(request)
        return index

    def cancel(self, index: int) -> None:
        """Stop a request."""
        if index in self._running:
            self._running.pop(index).close()

    def step(self) -> Sequence[tuple[int, EngineEvent | Exception]]:
        """Advance the oldest request by one event."""
        for index, events in self._running.items():
            try:
                event: EngineEvent | Exception = next(events)
            except Exception as error:
                event = error
            if isinstance(event, Finished | Exception):
                self.cancel(index)
            return [(index, event)]
        return []

    def close(self) -> None:
        """Stop all requests."""
        for index in list(self._running):
            self.cancel(index)
