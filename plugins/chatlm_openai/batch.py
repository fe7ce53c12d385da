"""Batch of requests in flight on a server, and the conversion of streamed chunks to events."""

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
    ReasoningParser,
    Request,
    Sampling,
    StopReason,
    StopStringFilter,
    StreamedPart,
    StreamedText,
    ToolCall,
    Usage,
    one_line,
)
from chatlm_openai.client import EventLoopThread, ServerClient
from chatlm_openai.protocol import (
    STOP_REASONS,
    ChatCompletionChunk,
    ToolCallFragment,
)
from chatlm_openai.think_tags import NO_TAGS, ContentSplitter

MAX_REASON_CHARACTERS = 60
"""Limit for a server's own word for why it stopped."""


BURST_SECONDS = 0.05
"""A reply that arrives within this time was buffered, so its decoding speed is unknown."""


class ResponseStream:
    """Converter of the chunks of one streamed reply to engine events.

    Args:
        sampling: the sampling of the request.
        prompt_tokens: estimated size of the prompt, used until the server reports it.
        limit_reason: the stop reason if the reply reaches the maximum length.
        continues: whether the reply continues an answer.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt_tokens: int,
        limit_reason: StopReason,
        *,
        continues: bool = False,
    ) -> None:
        self._content = ContentSplitter(is_answer=continues)
        self._thought = ReasoningParser(NO_TAGS, is_open=True)
        """Of the newest thought that the server tells from the answer itself."""
        self._part: StreamedPart = "text"
        """The part of the newest text."""
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
        self._refused = False
        self._tool_calls: list[ToolCallFragment] = []
        """The calls so far, with all of their arguments that have arrived."""
        self._extra: ChatCompletionChunk | None = None
        """A chunk beyond the maximum length: if none follows, text that the server withheld."""

    def feed(self, chunk: ChatCompletionChunk) -> list[Delta | Finished]:
        """Return the events of a chunk.

        A stop string or a maximum length that the server ignores ends the reply here. Stop strings
        are matched in the answer only, not in the reasoning. Thoughts in `<think>` at the start of
        the text are told from the answer, unless the server does so.
        """
        self._finish_reason = chunk.finish_reason or self._finish_reason
        self._matched_stop = chunk.matched_stop or self._matched_stop
        has_content = chunk.has_content
        self._chunk_count += has_content
        is_over = bool(self._max_tokens) and self._chunk_count > (self._max_tokens or 0)
        if not has_content:
            self._update_usage(chunk)
            self._shown_tokens.feed(chunk.token_logprobs, "")
            return []
        if not is_over:
            return self._accept(chunk)
        if self._extra is None:
            self._extra = chunk
            return [self.idle_event()]
        self._extra = None
        self._finish_reason = "length"
        return self.finish()

    def _accept(self, chunk: ChatCompletionChunk) -> list[Delta | Finished]:
        """Return the events of a chunk within the maximum length."""
        before: list[StreamedText] = []
        if chunk.reasoning or chunk.refusal:  # the server tells them from the answer itself
            before = self._content.take_for_answer()
        pieces = self._split(chunk)
        self._update_usage(chunk)
        events: list[Delta | Finished] = [*self._deltas(before)]
        for fragment in chunk.tool_calls:
            self._add_tool_call(fragment)
        if chunk.refusal:
            self._refused = True
            events.append(Delta(self._stop_text.flush() + chunk.refusal, usage=self._usage))
        if chunk.reasoning:
            thoughts = self._thought.feed(chunk.reasoning)
            texts = (piece.text for piece in thoughts if piece.text)
            events += (Delta(text, usage=self._usage, part="reasoning") for text in texts)
        if chunk.text or chunk.refusal:
            self._thought = ReasoningParser(NO_TAGS, is_open=True)
        if not chunk.text:
            return events or [self.idle_event()]
        self._shown_tokens.feed(chunk.token_logprobs, chunk.text)
        events += self._deltas(pieces) or [self.idle_event()]
        if self._stop_text.matched_stop is not None:
            events.append(
                Finished(StopReason.STOP_STRING, self._usage, self._stop_text.matched_stop)
            )
        return events

    def idle_event(self) -> Delta:
        """Return an empty event, so that the consumer can cancel while the server is silent."""
        return Delta("", self._withheld, self._usage, part=self._part)

    @property
    def has_started(self) -> bool:
        """Whether any text or reasoning has arrived."""
        return self._first_token_at > 0

    def finish(self) -> list[Delta | Finished]:
        """Return the remaining events when the server has ended the reply."""
        extra, self._extra = self._extra, None
        events: list[Delta | Finished] = self._accept(extra) if extra else []
        events += self._deltas(self._content.flush())
        if withheld := self._stop_text.flush():
            events.append(self._delta(StreamedText("text", withheld)))
        reason, matched = self._stop_reason()
        calls = self._tool_calls if reason is StopReason.TOOL_CALLS else ()
        return [
            *events,
            Finished(
                reason,
                self._usage,
                matched,
                tuple(ToolCall(call.id, call.name, call.arguments or "{}") for call in calls),
            ),
        ]

    def _stop_reason(self) -> tuple[StopReason, str | None]:
        """Return why the reply ended, and the stop string or the server's word for it.

        Some servers report `stop` for a refusal or for tool calls. A word that is not known is
        passed on, so that it is seen.
        """
        reason = STOP_REASONS.get(self._finish_reason.lower())
        if reason is None:
            return StopReason.CRITERION, one_line(self._finish_reason, MAX_REASON_CHARACTERS)
        if reason is StopReason.LENGTH:
            return self._limit_reason, None
        if reason is not StopReason.END:
            return reason, None
        if self._refused:
            return StopReason.REFUSAL, None
        if self._tool_calls:
            return StopReason.TOOL_CALLS, None
        if self._matched_stop in self._stop_strings:
            return StopReason.STOP_STRING, self._matched_stop
        return StopReason.END, None

    def _add_tool_call(self, fragment: ToolCallFragment) -> None:
        """Begin a tool call, or append to the newest one with the fragment's index."""
        calls = self._tool_calls
        at = next((n for n in reversed(range(len(calls))) if calls[n].index == fragment.index), -1)
        if at < 0 or (fragment.id and calls[at].id and fragment.id != calls[at].id):
            calls.append(fragment)
            return
        calls[at] = dataclasses.replace(
            calls[at],
            id=calls[at].id or fragment.id,
            name=calls[at].name or fragment.name,
            arguments=calls[at].arguments + fragment.arguments,
        )

    def _split(self, chunk: ChatCompletionChunk) -> list[StreamedText]:
        """Return the parts of the chunk's text that are certain."""
        if chunk.reasoning:
            self._part = "reasoning"
        pieces = self._content.feed(chunk.text) if chunk.text else []
        if chunk.text or chunk.refusal:
            self._part = self._content.part
        return pieces

    @property
    def _withheld(self) -> str:
        """Text of the newest part that is not certain yet."""
        return self._stop_text.withheld + self._content.withheld

    def _deltas(self, pieces: Sequence[StreamedText]) -> list[Delta]:
        """Return the events of certain text."""
        return [
            self._delta(
                dataclasses.replace(piece, text=self._stop_text.feed(piece.text))
                if piece.part == "text"
                else piece
            )
            for piece in pieces
        ]

    def _delta(self, piece: StreamedText) -> Delta:
        shown = self._shown_tokens.release(piece.text, piece.dropped)
        withheld = self._withheld if piece.part == self._part else ""
        return Delta(piece.text, withheld, self._usage, shown, piece.part)

    def _update_usage(self, chunk: ChatCompletionChunk) -> None:
        """Count each chunk with content as one token until the server reports the usage."""
        usage, now = self._usage, time.perf_counter()
        has_content = chunk.has_content
        completion = usage.completion_tokens
        if has_content:
            self._first_token_at = self._first_token_at or now
            completion += 1
        if chunk.completion_tokens is not None:
            completion = chunk.completion_tokens
        prompt = chunk.prompt_tokens
        cached = chunk.cached_tokens
        is_thought = bool(chunk.reasoning or (chunk.text and self._part == "reasoning"))
        thoughts = usage.reasoning_tokens + is_thought
        self._usage = dataclasses.replace(
            usage,
            prompt_tokens=usage.prompt_tokens if prompt is None else prompt,
            cached_tokens=usage.cached_tokens if cached is None else cached,
            completion_tokens=completion,
            reasoning_tokens=chunk.reasoning_tokens or thoughts,
        )
        if has_content:
            elapsed = now - self._first_token_at
            self._usage = dataclasses.replace(
                self._usage,
                first_token_seconds=self._first_token_at - self._started_at,
                decode_seconds=elapsed if elapsed > BURST_SECONDS else 0.0,
            )


POLL_SECONDS = 0.05
"""After this time without a chunk an empty event is returned, so that the consumer can cancel."""


ServerEvent = tuple[int, PromptReady | ChatCompletionChunk | Exception | None]
"""Index of a request, and a chunk of its reply, an error, or None at the end of the reply."""


@dataclass(frozen=True)
class PreparedRequest:
    """A request, ready to send."""

    prompt: Prompt
    omitted: tuple[Message, ...]
    """Messages that do not fit the context window."""
    body: dict[str, Any]
    response: ResponseStream
    """Converts the reply."""


class ServerBatch:
    """Requests in flight on one server; implements `chatlm.Batch`.

    Args:
        prepare: fits a request to the context window and builds its body.
        server: the client.
        loop_thread: the event loop of the client.
        max_concurrency: maximum number of requests in flight.
    """

    def __init__(
        self,
        prepare: Callable[[Request], PreparedRequest],
        server: ServerClient,
        loop_thread: EventLoopThread,
        max_concurrency: int,
    ) -> None:
        self.max_concurrency = max_concurrency
        self._prepare = prepare
        self._server = server
        self._loop_thread = loop_thread
        self._active: dict[int, PreparedRequest] = {}
        self._failed: dict[int, Exception] = {}
        """Errors of requests that could not be prepared, until `step` returns them."""
        self._futures: dict[int, Future[None]] = {}
        self._event_queue: SimpleQueue[ServerEvent] = SimpleQueue()
        self._next_index = 0

    def __len__(self) -> int:
        return len(self._active) + len(self._failed)

    def add(self, request: Request) -> int:
        """Send one more request and return its index."""
        index, self._next_index = self._next_index, self._next_index + 1
        try:
            prepared = self._prepare(request)
        except Exception as error:
            self._failed[index] = error
            return index
        prompt = prepared.prompt
        ready = PromptReady(
            len(prompt.tokens), prompt.context_length, prepared.omitted, prompt_hash=prompt.hash
        )
        self._event_queue.put((index, ready))
        self._active[index] = prepared
        self._futures[index] = self._loop_thread.submit(self._stream_reply(index, prepared.body))
        return index

    def cancel(self, index: int) -> None:
        """Cancel a request and close its connection."""
        self._failed.pop(index, None)
        self._active.pop(index, None)
        if future := self._futures.pop(index, None):
            future.cancel()

    def close(self) -> None:
        """Cancel all requests."""
        for index in [*self._failed, *self._active]:
            self.cancel(index)

    def step(self) -> Sequence[tuple[int, EngineEvent | Exception]]:
        """Return the next events, waiting up to `POLL_SECONDS` for the server."""
        if self._failed:
            return [self._failed.popitem()]
        if not self._active:
            return []
        try:
            index, item = self._event_queue.get(timeout=POLL_SECONDS)
        except Empty:
            return [self._idle_event()]
        if index not in self._active:  # it was cancelled
            return []
        events = self._to_engine_events(self._active[index], item)
        if events and isinstance(events[-1], Finished | Exception):
            self.cancel(index)
        return [(index, event) for event in events]

    def _to_engine_events(
        self, prepared: PreparedRequest, item: PromptReady | ChatCompletionChunk | Exception | None
    ) -> Sequence[EngineEvent | Exception]:
        if isinstance(item, PromptReady | Exception):
            return [item]
        return prepared.response.finish() if item is None else prepared.response.feed(item)

    def _idle_event(self) -> tuple[int, EngineEvent]:
        """Return an empty event of the first request."""
        index, prepared = next(iter(self._active.items()))
        if prepared.response.has_started:
            return index, prepared.response.idle_event()
        return index, Prefill(0, len(prepared.prompt.tokens))

    async def _stream_reply(self, index: int, body: dict[str, Any]) -> None:
        try:
            await self._server.stream_completion(
                body, lambda chunk: self._event_queue.put((index, chunk))
            )
        except asyncio.CancelledError:  # the request was cancelled, or the engine was closed
            self._event_queue.put(
                (index, EngineError("The model was closed.", hint="Send the message again."))
            )
            raise
        except Exception as error:  # returned by `step`
            self._event_queue.put((index, error))
        else:
            self._event_queue.put((index, None))
