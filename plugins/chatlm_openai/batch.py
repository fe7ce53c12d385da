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
        limit_reason: what it means that the reply is as long as it may be.
    """

    def __init__(self, sampling: Sampling, prompt_tokens: int, limit_reason: StopReason) -> None:
        self._stop_text = StopStringFilter(sampling.stop)
        self._shown_tokens = LogprobBuffer()
        self._stop_strings = sampling.stop
        self._max_tokens = sampling.max_tokens
        self._chunk_count = 0
        self._limit_reason = limit_reason
        self._usage = Usage(prompt_tokens=prompt_tokens)
        self._started_at = time.perf_counter()
        self._first_token_at = 0.0
        self._finish_reason = ""
        self._matched_stop = ""

    def feed(self, chunk: ChatCompletionChunk) -> list[Delta | Finished]:
        """What a piece brings; a stop string, or a length, that the server did not heed ends the
        reply."""
        self._finish_reason = chunk.finish_reason or self._finish_reason
        self._matched_stop = chunk.matched_stop or self._matched_stop
        self._update_usage(chunk)
        if not chunk.text:
            self._shown_tokens.feed(chunk.token_logprobs, "")
            return []
        self._chunk_count += 1
        if self._max_tokens and self._chunk_count > self._max_tokens:
            self._finish_reason = "length"
            return self.finish()
        self._shown_tokens.feed(chunk.token_logprobs, chunk.text)
        events: list[Delta | Finished] = [self._delta(self._stop_text.feed(chunk.text))]
        if self._stop_text.matched_stop is not None:
            events.append(
                Finished(StopReason.STOP_STRING, self._usage, self._stop_text.matched_stop)
            )
        return events

    def idle_event(self) -> Delta:
        """An event for while nothing comes, so that whoever pulls can give up."""
        return Delta("", self._stop_text.withheld, self._usage)

    @property
    def has_text(self) -> bool:
        """Whether any text has come."""
        return self._first_token_at > 0

    def finish(self) -> list[Delta | Finished]:
        """What is left when the server has ended the reply."""
        events: list[Delta | Finished] = []
        if held := self._stop_text.flush():
            events.append(self._delta(held))
        reason = _STOP_REASONS.get(self._finish_reason, StopReason.END)
        stop: str | None = None
        if reason is StopReason.LENGTH:
            reason = self._limit_reason
        elif reason is StopReason.CRITERION:
            stop = self._finish_reason
        elif self._matched_stop in self._stop_strings:
            reason, stop = StopReason.STOP_STRING, self._matched_stop
        return [*events, Finished(reason, self._usage, stop)]

    def _delta(self, text: str) -> Delta:
        return Delta(text, self._stop_text.withheld, self._usage, self._shown_tokens.release(text))

    def _update_usage(self, chunk: ChatCompletionChunk) -> None:
        """Count a piece with text as a token, until the server says how many there were."""
        usage, now = self._usage, time.perf_counter()
        made = usage.completion_tokens
        if chunk.text:
            self._first_token_at = self._first_token_at or now
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
            taken = now - self._first_token_at
            self._usage = dataclasses.replace(
                self._usage,
                first_token_seconds=self._first_token_at - self._started_at,
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
    response: ResponseStream
    """Takes the reply."""


class ServerBatch:
    """See `chatlm.Batch`.

    Args:
        prepare: makes a request into what is sent.
        server: that is asked.
        loop_thread: where it is asked.
        max_concurrency: how many requests are on their way at a time.
    """

    def __init__(
        self,
        prepare: Callable[[Request], PreparedRequest],
        server: ServerClient,
        loop_thread: EventLoopThread,
        at_once: int,
    ) -> None:
        self.max_concurrency = at_once
        self._prepare = prepare
        self._server = server
        self._loop_thread = loop_thread
        self._active: dict[int, PreparedRequest] = {}
        self._failed: dict[int, Exception] = {}
        """What could not even be asked, and is not told yet."""
        self._futures: dict[int, Future[None]] = {}
        self._event_queue: SimpleQueue[ServerEvent] = SimpleQueue()
        self._next_number = 0

    def __len__(self) -> int:
        return len(self._active) + len(self._failed)

    def add(self, request: Request) -> int:
        """See `Batch.add`."""
        number, self._next_number = self._next_number, self._next_number + 1
        try:
            asking = self._prepare(request)
        except Exception as error:
            self._failed[number] = error
            return number
        prompt = asking.prompt
        fitted = PromptReady(
            len(prompt.tokens), prompt.context_length, asking.left_out, prompt_hash=prompt.hash
        )
        self._event_queue.put((number, fitted))
        self._active[number] = asking
        self._futures[number] = self._loop_thread.submit(self._stream_reply(number, asking.body))
        return number

    def cancel(self, index: int) -> None:
        """See `Batch.drop`."""
        self._failed.pop(index, None)
        self._active.pop(index, None)
        if reply := self._futures.pop(index, None):
            reply.cancel()

    def close(self) -> None:
        """See `Batch.close`."""
        for number in [*self._failed, *self._active]:
            self.cancel(number)

    def step(self) -> Sequence[tuple[int, EngineEvent | Exception]]:
        """See `Batch.step`; waits a little for the server."""
        if self._failed:
            return [self._failed.popitem()]
        if not self._active:
            return []
        try:
            number, said = self._event_queue.get(timeout=POLL_SECONDS)
        except Empty:
            return [self._idle_event()]
        if number not in self._active:  # it was dropped
            return []
        events = self._to_engine_events(self._active[number], said)
        if events and isinstance(events[-1], Finished | Exception):
            self.cancel(number)
        return [(number, event) for event in events]

    def _to_engine_events(
        self, prepared: PreparedRequest, item: PromptReady | ChatCompletionChunk | Exception | None
    ) -> Sequence[EngineEvent | Exception]:
        if isinstance(item, PromptReady | Exception):
            return [item]
        return prepared.response.finish() if item is None else prepared.response.feed(item)

    def _idle_event(self) -> tuple[int, EngineEvent]:
        """Something that says nothing, of the first."""
        number, asking = next(iter(self._active.items()))
        if asking.response.has_text:
            return number, asking.response.idle_event()
        return number, Prefill(0, len(asking.prompt.tokens))

    async def _stream_reply(self, number: int, body: dict[str, Any]) -> None:
        try:
            await self._server.stream_completion(
                body, lambda chunk: self._event_queue.put((number, chunk))
            )
        except asyncio.CancelledError:  # nobody pulls any more, or the engine was closed
            self._event_queue.put((number, EngineError("The model was closed.", hint="Ask again.")))
            raise
        except Exception as error:  # told to whoever pulls
            self._event_queue.put((number, error))
        else:
            self._event_queue.put((number, None))
