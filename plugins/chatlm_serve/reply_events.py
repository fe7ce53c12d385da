"""What is streamed of a reply, in no protocol's words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from chatlm import (
    Delta,
    EngineEvent,
    Finished,
    PromptReady,
    StopReason,
    TokenLogprob,
    ToolCall,
    Usage,
    one_line,
)
from chatlm_serve.errors import ApiError


@dataclass(frozen=True)
class ReplyStarted:
    """The prompt fits; nothing is generated yet. A reply that needs no model has no such event."""

    prompt_tokens: int
    cached_tokens: int
    """Tokens of the prompt that were read before."""


@dataclass(frozen=True)
class TextDelta:
    """More text of the answer."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class ReasoningDelta:
    """More text of the thought before the answer."""

    text: str


@dataclass(frozen=True)
class ToolCallDelta:
    """More of a tool call; its first delta has its id and name."""

    index: int
    """Number of the call in the reply, from 0."""
    id: str = ""
    name: str = ""
    arguments: str = ""
    """More text of the JSON object."""


@dataclass(frozen=True)
class ReplyEnded:
    """The last event."""

    stop_reason: StopReason
    usage: Usage
    matched_stop: str | None = None
    """The stop string that ended it."""
    tool_calls: tuple[ToolCall, ...] = ()


ReplyEvent = ReplyStarted | TextDelta | ReasoningDelta | ToolCallDelta | ReplyEnded


@dataclass
class WholeReply:
    """A reply that comes whole."""

    text: str = ""
    reasoning: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end: ReplyEnded = field(default_factory=lambda: ReplyEnded(StopReason.EMPTY, Usage()))

    def add(self, event: ReplyEvent) -> None:
        """Add the next event; the reply is whole after `ReplyEnded`."""
        match event:
            case TextDelta(text, logprobs):
                self.text += text
                self.logprobs += logprobs
            case ReasoningDelta(text):
                self.reasoning += text
            case ReplyEnded():
                self.end = event


def reply_events(event: EngineEvent) -> Iterator[ReplyEvent]:
    """Convert an engine's event.

    Raises:
        ApiError: the reply was cut off.
    """
    match event:
        case PromptReady():
            yield ReplyStarted(event.prompt_tokens, event.cached_tokens)
        case Delta(part="reasoning", text=text) if text:
            yield ReasoningDelta(text)
        case Delta(part="text", text=text, logprobs=logprobs) if text or logprobs:
            yield TextDelta(text, logprobs)
        case Finished():
            if event.stop_reason in (StopReason.CANCELLED, StopReason.ERROR):
                raise ApiError(500, f"The reply was cut off: {event.stop_reason.label}.")
            yield from _call_deltas(event.tool_calls)
            yield ReplyEnded(event.stop_reason, event.usage, event.matched_stop, event.tool_calls)


def call_arguments(call: ToolCall) -> dict[str, Any]:
    """Return the arguments of a call as an object, for protocols that have no text of them.

    Raises:
        ApiError: the model wrote something else.
    """
    try:
        value = json.loads(call.arguments or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        name = one_line(call.name, 60)
        raise ApiError(500, f"The model called {name} with arguments that are no JSON object.")
    return value


def _call_deltas(calls: Iterable[ToolCall]) -> Iterator[ToolCallDelta]:
    """Yield the beginning of each call, then its arguments, as clients expect them."""
    for index, call in enumerate(calls):
        yield ToolCallDelta(index, call.id, call.name)
        yield ToolCallDelta(index, arguments=call.arguments)
