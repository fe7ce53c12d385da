"""Requests in flight; stream chunks to events."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from chatlm import (
    Delta,
    EngineError,
    EngineEvent,
    Finished,
    LogprobBuffer,
    Message,
    Prefill,
    Prompt,
    PromptReady,
    Request,
    Sampling,
    StopReason,
    StopStringFilter,
    Usage,
)
from chatlm_openai.client import EventLoopThread, ServerClient
from chatlm_openai.protocol import ChatCompletionChunk

_STOP_REASONS = {"length": StopReason.LENGTH, "content_filter": StopReason.CRITERION}
"""By a server's `finish_reason`; with any other, the model ended its turn."""


BURST_SECONDS = 0.05
"""Seconds in which a whole reply may come at once, which says nothing of how fast it was made."""


class ResponseStream:
    """Takes pieces until the reply has ended.

    Args:
        sampling: what was asked for.
        prompt_tokens: of the prompt, by an estimate that holds until the server counts.
        at_most: what it means that the reply is as long as it may be.
    """

    def __init__(self, sampling: Sampling, prompt_tokens: int, at_most: StopReason) -> None:
        self._stops = StopStringFilter(sampling.stop)
        self._tokens = LogprobBuffer()
        self._stop_strings = sampling.stop
        self._longest = sampling.max_tokens
        self._pieces = 0
        self._at_most = at_most
        self._usage = Usage(prompt_tokens=prompt_tokens)
        self._started = time.perf_counter()
        self._first = 0.0
        self._finish = ""
        self._stop = ""

    def take(self, chunk: ChatCompletionChunk) -> list[Delta | Finished]:
        """What a piece brings; a stop string, or a length, that the server did not heed ends the
        reply."""
        self._finish = chunk.finish or self._finish
        self._stop = chunk.stop or self._stop
        self._count(chunk)
        if not chunk.text:
            self._tokens.feed(chunk.tokens, "")
            return []
        self._pieces += 1
        if self._longest and self._pieces > self._longest:
            self._finish = "length"
            return self.end()
        self._tokens.feed(chunk.tokens, chunk.text)
        events: list[Delta | Finished] = [self._delta(self._stops.feed(chunk.text))]
        if self._stops.found is not None:
            events.append(Finished(StopReason.STOP_STRING, self._usage, self._stops.found))
        return events

    def waiting(self) -> Delta:
        """An event for while nothing comes, so that whoever pulls can give up."""
        return Delta("", self._stops.held, self._usage)

    @property
    def begun(self) -> bool:
        """Whether any text has come."""
        return self._first > 0

    def end(self) -> list[Delta | Finished]:
        """What is left when the server has ended the reply."""
        events: list[Delta | Finished] = []
        if held := self._stops.flush():
            events.append(self._delta(held))
        reason = _STOP_REASONS.get(self._finish, StopReason.END)
        stop: str | None = None
        if reason is StopReason.LENGTH:
            reason = self._at_most
        elif reason is StopReason.CRITERION:
            stop = self._finish
        elif self._stop in self._stop_strings:
            reason, stop = StopReason.STOP_STRING, self._stop
        return [*events, Finished(reason, self._usage, stop)]

    def _delta(self, text: str) -> Delta:
        return Delta(text, self._stops.held, self._usage, self._tokens.take(text))

    def _count(self, chunk: ChatCompletionChunk) -> None:
        """Count a piece with text as a token, until the server says how many there were."""
        usage, now = self._usage, time.perf_counter()
        made = usage.completion_tokens
        if chunk.text:
            self._first = self._first or now
            made += 1
        if chunk.completion_tokens is not None:
            made = chunk.completion_tokens
        prompt = chunk.prompt_tokens
        cached = chunk.cached_tokens
        self._usage = dataclasses.replace(
            usage,
            prompt_tokens=usage.prompt_tokens if prompt is None else prompt,
            cached_tokens=usage.cached_tokens if cached is None else cached,
            completion_tokens=made,
        )
        if chunk.text:
            taken = now - self._first
            self._usage = dataclasses.replace(
                self._usage,
                first_token_seconds=self._first - self._started,
                decode_seconds=taken if taken > BURST_SECONDS else 0.0,
            )


POLL_SECONDS = 0.05
"""After so long without news an event comes that says nothing, so that whoever pulls can stop."""


ServerEvent = tuple[int, PromptReady | ChatCompletionChunk | Exception | None]
"""Of which request, and what: a piece of its reply, how it failed, or None when it has ended."""


@dataclass(frozen=True)
class PreparedRequest:
    """A request as it is sent."""

    prompt: Prompt
    left_out: tuple[Message, ...]
    """Those that do not fit."""
    body: dict[str, Any]
    growing: ResponseStream
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
        asking: Callable[[Request], PreparedRequest],
        server: ServerClient,
        background: EventLoopThread,
        at_once: int,
    ) -> None:
        self.at_once = at_once
        self._asking = asking
        self._server = server
        self._background = background
        self._asked: dict[int, PreparedRequest] = {}
        self._refused: dict[int, Exception] = {}
        """What could not even be asked, and is not told yet."""
        self._replies: dict[int, Future[None]] = {}
        self._news: SimpleQueue[ServerEvent] = SimpleQueue()
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
        fitted = PromptReady(
            len(prompt.tokens), prompt.limit, asking.left_out, prompt_hash=prompt.hash
        )
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
        self, asking: PreparedRequest, said: PromptReady | ChatCompletionChunk | Exception | None
    ) -> Sequence[EngineEvent | Exception]:
        if isinstance(said, PromptReady | Exception):
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
