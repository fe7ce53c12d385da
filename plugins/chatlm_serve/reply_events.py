"""What is streamed of a reply, in no protocol's words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
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
    ToolCallDelta,
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
    repeats_call: bool = False
    """Whether it is the text of a call that was cut, and that was streamed as a call before."""


@dataclass(frozen=True)
class ReasoningDelta:
    """More text of the thought before the answer."""

    text: str


@dataclass(frozen=True)
class ReplyEnded:
    """The last event."""

    stop_reason: StopReason
    usage: Usage
    matched_stop: str | None = None
    """The stop string that ended it."""
    tool_calls: tuple[ToolCall, ...] = ()
    cut_call: bool = False
    """Whether the last call that was streamed was cut."""

    @property
    def streamed_reason(self) -> StopReason:
        """Why a reply ended whose calls were streamed, even the one that was cut."""
        return StopReason.LENGTH if self.cut_call else self.stop_reason


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


class ReplyEvents:
    """Converts the events of an engine, those of one reply."""

    def __init__(self) -> None:
        self._calls = 0
        """How many have begun."""

    def read(self, event: EngineEvent) -> Iterator[ReplyEvent]:
        """Convert the next event.

        Raises:
            ApiError: the reply was cut off.
        """
        match event:
            case PromptReady():
                yield ReplyStarted(event.prompt_tokens, event.cached_tokens)
            case Delta():
                if event.part == "reasoning" and event.text:
                    yield ReasoningDelta(event.text)
                elif event.part == "text" and (event.text or event.logprobs):
                    yield TextDelta(event.text, event.logprobs, event.repeats_call)
                self._calls += sum(bool(delta.id) for delta in event.calls)
                yield from event.calls
            case Finished():
                if event.stop_reason in (StopReason.CANCELLED, StopReason.ERROR):
                    raise ApiError(500, f"The reply was cut off: {event.stop_reason.label}.")
                calls = event.tool_calls
                yield from self._whole_calls(calls)
                cut = self._calls > len(calls)
                yield ReplyEnded(event.stop_reason, event.usage, event.matched_stop, calls, cut)

    def _whole_calls(self, calls: Sequence[ToolCall]) -> Iterator[ToolCallDelta]:
        """Yield the calls of an engine that does not stream them, as clients expect them."""
        for index in range(self._calls, len(calls)):
            yield ToolCallDelta(index, calls[index].id, calls[index].name)
            yield ToolCallDelta(index, arguments=calls[index].arguments)


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
