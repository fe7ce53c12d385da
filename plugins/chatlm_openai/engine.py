"""The engine that asks a server; see `chatlm.Engine`."""

from __future__ import annotations

import asyncio
import dataclasses
import queue
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from contextlib import closing
from typing import Any

from chatlm import (
    ChatlmError,
    ContextTooLong,
    EngineError,
    EngineEvent,
    EngineInfo,
    Finished,
    Fitted,
    Message,
    Prefill,
    Prompt,
    Request,
    StopReason,
)
from chatlm_openai import body
from chatlm_openai.background import Background
from chatlm_openai.chunks import Chunk
from chatlm_openai.cutting import PIECES
from chatlm_openai.growing import Growing
from chatlm_openai.server import Server

POLL_SECONDS = 0.05
"""After so long without news an event comes that says nothing, so that whoever pulls can stop."""

MARGIN = 8
"""One part of so many of the prompt's estimate is kept free, since it may be too low."""

MORE_THERE = "Shorten the message, unpin turns, or start the server with a longer context."
MORE_HERE = (
    "Where the server has more context than that: chatlm config set plugins.openai.context N"
)
"""What helps where a chat is too long for what the server says it has, and else."""

News = tuple[int, Chunk | BaseException | None]
"""Of which request, and what: a piece of its reply, how it failed, or None when it has ended."""


@dataclasses.dataclass
class _Asked:
    """A request on its way."""

    prompt: Prompt
    growing: Growing
    reply: Future[None]


class OpenAIEngine:
    """One model on a server.

    Args:
        background: where the connections live; closed with the engine.
        server: that has the model.
        model: as the server calls it.
        info: what is known of it.
        in_flight: replies that `stream_many` asks for at once.
        all_context: whether the context is all that the server says it has.
    """

    def __init__(
        self,
        background: Background,
        server: Server,
        model: str,
        info: EngineInfo,
        *,
        in_flight: int,
        all_context: bool,
    ) -> None:
        self.info = info
        self._background = background
        self._server = server
        self._model = model
        self._in_flight = in_flight
        self._all = all_context

    def preview(self, request: Request) -> Prompt:
        """See `Engine.preview`; the tokens are estimated."""
        try:
            return PIECES.prompt(request, self.info)
        except ContextTooLong as error:
            error.hint = MORE_THERE if self._all else f"{error.hint} {MORE_HERE}"
            raise

    def count_tokens(self, messages: Iterable[Message]) -> int:
        """See `Engine.count_tokens`; estimated."""
        return PIECES.count(messages)

    def close(self) -> None:
        """Close what is open."""
        self._background.close()

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        """See `Engine.read_ahead`; a server is not asked to."""
        yield from ()

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """See `Engine.stream`; several may run at a time."""
        with closing(self.stream_many([request])) as events:
            for _, event in events:
                yield event

    def stream_many(
        self, requests: Iterable[Request]
    ) -> Generator[tuple[int, EngineEvent], None, None]:
        """See `chatlm.stream_many`; several are asked for at once.

        When one fails, those that are on their way are waited for before that is raised.
        """
        waiting = deque(enumerate(requests))
        asked: dict[int, _Asked] = {}
        news: queue.SimpleQueue[News] = queue.SimpleQueue()
        failures: dict[int, BaseException] = {}
        try:
            while asked or (waiting and not failures):
                while waiting and not failures and len(asked) < self._in_flight:
                    number, request = waiting.popleft()
                    try:
                        asked[number] = begun = self._begin(number, request, news)
                    except ChatlmError as error:
                        failures[number] = error
                        break
                    yield number, _fitted(request, begun.prompt)
                if not asked:
                    break
                number, events = self._next(asked, news, failures)
                for event in events:
                    if isinstance(event, Finished):
                        asked.pop(number).reply.cancel()
                    yield number, event
        finally:
            for each in asked.values():
                each.reply.cancel()
        if failures:
            raise failures[min(failures)]

    def _next(
        self,
        asked: dict[int, _Asked],
        news: queue.SimpleQueue[News],
        failures: dict[int, BaseException],
    ) -> tuple[int, list[Any]]:
        """Of which request something comes next, and what; one that failed is taken out."""
        try:
            number, said = news.get(timeout=POLL_SECONDS)
        except queue.Empty:
            number = next(iter(asked))
            each = asked[number]
            total = len(each.prompt.tokens)
            return number, [each.growing.waiting() if each.growing.begun else Prefill(0, total)]
        if number not in asked:  # it ended by a stop string that the server did not see
            return number, []
        if isinstance(said, Chunk):
            return number, list(asked[number].growing.take(said))
        if said is None:
            return number, list(asked[number].growing.end())
        failures[number] = said
        del asked[number]
        return number, []

    def _begin(self, number: int, request: Request, news: queue.SimpleQueue[News]) -> _Asked:
        """Fit the prompt and ask for the reply."""
        prompt = self.preview(request)
        sampling = request.sampling.over(self.info.defaults)
        left_out = set(prompt.left_out)
        messages = tuple(m for at, m in enumerate(request.messages) if at not in left_out)
        taken = len(prompt.tokens)
        room = max(prompt.limit - taken - taken // MARGIN, 1)
        wanted = sampling.max_tokens or room
        at_most = StopReason.LENGTH if wanted <= room else StopReason.CONTEXT_FULL
        sampling = dataclasses.replace(sampling, max_tokens=min(wanted, room))
        sent = body.made(self._model, dataclasses.replace(request, messages=messages), sampling)
        growing = Growing(sampling, taken, at_most)
        reply = self._background.start(self._reply(number, sent, news))
        return _Asked(prompt, growing, reply)

    async def _reply(
        self, number: int, sent: dict[str, Any], news: queue.SimpleQueue[News]
    ) -> None:
        try:
            await self._server.answer(sent, lambda chunk: news.put((number, chunk)))
        except asyncio.CancelledError:  # nobody pulls any more, or the engine was closed
            news.put((number, EngineError("The model was closed.", hint="Ask again.")))
            raise
        except Exception as error:  # told to whoever pulls
            news.put((number, error))
        else:
            news.put((number, None))


def _fitted(request: Request, prompt: Prompt) -> Fitted:
    left_out = tuple(request.messages[index] for index in prompt.left_out)
    return Fitted(len(prompt.tokens), prompt.limit, left_out, prompt_hash=prompt.hash)
