"""Several requests that a server answers at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from chatlm import EngineError, EngineEvent, Finished, Fitted, Message, Prefill, Prompt, Request
from chatlm_openai.background import Background
from chatlm_openai.chunks import Chunk
from chatlm_openai.growing import Growing
from chatlm_openai.server import Server

POLL_SECONDS = 0.05
"""After so long without news an event comes that says nothing, so that whoever pulls can stop."""

News = tuple[int, Fitted | Chunk | Exception | None]
"""Of which request, and what: a piece of its reply, how it failed, or None when it has ended."""


@dataclass(frozen=True)
class Asking:
    """A request as it is sent."""

    prompt: Prompt
    left_out: tuple[Message, ...]
    """Those that do not fit."""
    body: dict[str, Any]
    growing: Growing
    """Takes the reply."""


class ServerBatch:
    """See `chatlm.Batch`.

    Args:
        asking: makes a request into what is sent.
        server: that is asked.
        background: where it is asked.
        at_once: how many requests are on their way at a time.
    """

    def __init__(
        self,
        asking: Callable[[Request], Asking],
        server: Server,
        background: Background,
        at_once: int,
    ) -> None:
        self.at_once = at_once
        self._asking = asking
        self._server = server
        self._background = background
        self._asked: dict[int, Asking] = {}
        self._refused: dict[int, Exception] = {}
        """What could not even be asked, and is not told yet."""
        self._replies: dict[int, Future[None]] = {}
        self._news: SimpleQueue[News] = SimpleQueue()
        self._came = 0

    def __len__(self) -> int:
        return len(self._asked) + len(self._refused)

    def add(self, request: Request) -> int:
        """See `Batch.add`."""
        number, self._came = self._came, self._came + 1
        try:
            asking = self._asking(request)
        except Exception as error:
            self._refused[number] = error
            return number
        prompt = asking.prompt
        fitted = Fitted(len(prompt.tokens), prompt.limit, asking.left_out, prompt_hash=prompt.hash)
        self._news.put((number, fitted))
        self._asked[number] = asking
        self._replies[number] = self._background.start(self._reply(number, asking.body))
        return number

    def drop(self, number: int) -> None:
        """See `Batch.drop`."""
        self._refused.pop(number, None)
        self._asked.pop(number, None)
        if reply := self._replies.pop(number, None):
            reply.cancel()

    def close(self) -> None:
        """See `Batch.close`."""
        for number in [*self._refused, *self._asked]:
            self.drop(number)

    def step(self) -> Sequence[tuple[int, EngineEvent | Exception]]:
        """See `Batch.step`; waits a little for the server."""
        if self._refused:
            return [self._refused.popitem()]
        if not self._asked:
            return []
        try:
            number, said = self._news.get(timeout=POLL_SECONDS)
        except Empty:
            return [self._waiting()]
        if number not in self._asked:  # it was dropped
            return []
        events = self._events(self._asked[number], said)
        if events and isinstance(events[-1], Finished | Exception):
            self.drop(number)
        return [(number, event) for event in events]

    def _events(
        self, asking: Asking, said: Fitted | Chunk | Exception | None
    ) -> Sequence[EngineEvent | Exception]:
        if isinstance(said, Fitted | Exception):
            return [said]
        return asking.growing.end() if said is None else asking.growing.take(said)

    def _waiting(self) -> tuple[int, EngineEvent]:
        """Something that says nothing, of the first."""
        number, asking = next(iter(self._asked.items()))
        if asking.growing.begun:
            return number, asking.growing.waiting()
        return number, Prefill(0, len(asking.prompt.tokens))

    async def _reply(self, number: int, body: dict[str, Any]) -> None:
        try:
            await self._server.answer(body, lambda chunk: self._news.put((number, chunk)))
        except asyncio.CancelledError:  # nobody pulls any more, or the engine was closed
            self._news.put((number, EngineError("The model was closed.", hint="Ask again.")))
            raise
        except Exception as error:  # told to whoever pulls
            self._news.put((number, error))
        else:
            self._news.put((number, None))
