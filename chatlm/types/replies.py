"""Replies of models as frozen values: their steps, why they stopped, what they cost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from chatlm.errors import EXIT_INTERRUPTED
from chatlm.types.messages import Message
from chatlm.types.parts import (
    Image,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    append_text,
    join_thoughts,
    part_from_dict,
    reasoning_of,
    text_of,
)

StreamedPart = Literal["text", "reasoning"]
"""The parts that arrive token by token; tool calls arrive whole."""


PLUGIN_MODEL_PREFIX = "plugin:"
"""Begins `Reply.model` where a plugin gave the whole reply."""


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class StopReason(StrEnum):
    """Why a reply, or one step of it, stopped growing."""

    END = "end"
    """The model ended its turn."""
    STOP_STRING = "stop_string"
    """One of the request's stop strings appeared; it is not part of the text."""
    LENGTH = "length"
    """`max_tokens` new tokens were generated."""
    CONTEXT_FULL = "context_full"
    """The model's context window was full."""
    CRITERION = "criterion"
    """A stopping criterion of the request was met."""
    TOOL_CALLS = "tool_calls"
    """The model called tools; the next step follows their results."""
    TOOL_LIMIT = "tool_limit"
    """The maximum number of tool calls was reached."""
    NOTHING_RELEVANT = "nothing_relevant"
    """Retrieval found no passage that answers the question, so the model was not run."""
    REFUSAL = "refusal"
    """The model refused to answer, as its server reported."""
    CONTENT_FILTER = "content_filter"
    """A server's content filter ended the reply, or let none begin."""
    EMPTY = "empty"
    """The model ended its turn without an answer."""
    CANCELLED = "cancelled"
    """The user stopped it."""
    ERROR = "error"
    """Something failed; `Reply.error` says what."""

    @property
    def can_continue(self) -> bool:
        """Whether the reply was cut short and can be continued from its end."""
        return _STOP_REASONS[self].can_continue

    @property
    def exit_code(self) -> int:
        """Exit code of `chatlm ask` after such a reply."""
        return _STOP_REASONS[self].exit_code

    @property
    def label(self) -> str:
        """The reason in words, for the screen and the shell."""
        return _STOP_REASONS[self].label

    def if_answered(self, answered: bool) -> StopReason:
        """Return the reason of a reply: `empty` for a model that ended its turn and said nothing.

        Args:
            answered: whether the reply has text that is not blank, or tool calls.
        """
        ended = self in (StopReason.END, StopReason.TOOL_CALLS)
        return StopReason.EMPTY if ended and not answered else self


class _StopReasonFacts(NamedTuple):
    label: str
    can_continue: bool = False
    exit_code: int = 0


_STOP_REASONS = {
    StopReason.END: _StopReasonFacts("complete"),
    StopReason.STOP_STRING: _StopReasonFacts("ended at a stop string"),
    StopReason.LENGTH: _StopReasonFacts("reached the length limit", can_continue=True),
    StopReason.CONTEXT_FULL: _StopReasonFacts("context full", can_continue=True),
    StopReason.CRITERION: _StopReasonFacts("ended by a stopping rule", can_continue=True),
    StopReason.TOOL_CALLS: _StopReasonFacts("called tools", can_continue=True),
    StopReason.TOOL_LIMIT: _StopReasonFacts("reached the tool limit", can_continue=True),
    StopReason.NOTHING_RELEVANT: _StopReasonFacts("nothing relevant found", exit_code=3),
    StopReason.REFUSAL: _StopReasonFacts("refused by the model", exit_code=4),
    StopReason.CONTENT_FILTER: _StopReasonFacts("ended by a content filter", exit_code=4),
    StopReason.EMPTY: _StopReasonFacts("ended without an answer", exit_code=4),
    StopReason.CANCELLED: _StopReasonFacts(
        "stopped", can_continue=True, exit_code=EXIT_INTERRUPTED
    ),
    StopReason.ERROR: _StopReasonFacts("failed", can_continue=True, exit_code=1),
}
"""All that depends on the stop reason alone."""


@dataclass(frozen=True)
class Usage:
    """The cost of a generation."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that were found in the prompt cache."""
    completion_tokens: int = 0
    """New tokens, those of thoughts included."""
    first_token_seconds: float | None = None
    """From the call of `stream` to the first new token; None if there was none."""
    decode_seconds: float = 0.0
    """From the first new token to the last."""
    reasoning_tokens: int = 0
    """How many of the new tokens are of thoughts; 0 also where the engine does not count them."""

    def __add__(self, later: Usage) -> Usage:
        """Add what a later generation cost; the time to the first token stays this one's."""
        if self == Usage():
            return later
        return Usage(
            self.prompt_tokens + later.prompt_tokens,
            self.cached_tokens + later.cached_tokens,
            self.completion_tokens + later.completion_tokens,
            self.first_token_seconds,
            self.decode_seconds + later.decode_seconds,
            self.reasoning_tokens + later.reasoning_tokens,
        )

    @property
    def tokens_per_second(self) -> float | None:
        """Decode speed after the first token; None if there are too few tokens."""
        if self.completion_tokens < 2 or self.decode_seconds <= 0:
            return None
        return (self.completion_tokens - 1) / self.decode_seconds

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values; `reasoning_tokens` only where there are any."""
        values: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "first_token_seconds": self.first_token_seconds,
            "decode_seconds": self.decode_seconds,
        }
        if self.reasoning_tokens:
            values["reasoning_tokens"] = self.reasoning_tokens
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Usage:
        """Restore from the values of `to_dict`.

        Raises:
            KeyError: a key is missing.
        """
        return cls(
            prompt_tokens=values["prompt_tokens"],
            cached_tokens=values["cached_tokens"],
            completion_tokens=values["completion_tokens"],
            first_token_seconds=values["first_token_seconds"],
            decode_seconds=values["decode_seconds"],
            reasoning_tokens=values.get("reasoning_tokens", 0),
        )


@dataclass(frozen=True)
class ReplyStep:
    """One generation within a reply, followed by the results of the tools it called."""

    parts: tuple[Part, ...] = ()
    """What the model generated, then one `ToolResult` for each of its tool calls, each followed by
    its images, which the user sees, and the model if it reads images."""
    stop_reason: StopReason | None = None
    """None while it grows."""
    usage: Usage = field(default_factory=Usage)

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return text_of(self.parts)

    @property
    def reasoning(self) -> str:
        """The reasoning parts, joined."""
        return reasoning_of(self.parts)

    @property
    def is_plain(self) -> bool:
        """Whether it has only text, or nothing."""
        return all(isinstance(part, Text) for part in self.parts)

    @property
    def output(self) -> tuple[Part, ...]:
        """What the model generated: no results of tools, nor the images that came with them."""
        results = [at for at, part in enumerate(self.parts) if isinstance(part, ToolResult)]
        first = results[0] if results else len(self.parts)
        return tuple(
            part
            for at, part in enumerate(self.parts)
            if not isinstance(part, ToolResult) and not (at > first and isinstance(part, Image))
        )

    @property
    def unanswered_calls(self) -> tuple[ToolCall, ...]:
        """The calls without a result, and those that were interrupted while the tool ran."""
        done = {
            part.call_id
            for part in self.parts
            if isinstance(part, ToolResult) and part.outcome != "interrupted"
        }
        return tuple(
            part for part in self.parts if isinstance(part, ToolCall) and part.id not in done
        )

    @property
    def has_tool_results(self) -> bool:
        """Whether tools were run, so that the model's next output is another step."""
        return any(isinstance(part, ToolResult) for part in self.parts)

    def messages(self, pinned: bool = False) -> tuple[Message, ...]:
        """The step in a prompt: the assistant's message, then the tools' results with their images.

        A step that has nothing but reasoning has no message, since most models never read the
        reasoning of an earlier turn.
        """
        output = self.output
        first = next(
            (at for at, part in enumerate(self.parts) if isinstance(part, ToolResult)),
            len(self.parts),
        )
        results = tuple(part for part in self.parts[first:] if isinstance(part, ToolResult | Image))
        messages: tuple[Message, ...] = ()
        if any(part.type != "reasoning" for part in output):
            messages += (Message("assistant", output, pinned),)
        if results:
            messages += (Message("tool", results, pinned),)
        return messages

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "parts": [part.to_dict() for part in self.parts],
            "stop_reason": self.stop_reason and self.stop_reason.value,
            "usage": self.usage.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReplyStep:
        """Restore from the values of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: a key is missing or has an invalid value.
        """
        reason = values["stop_reason"]
        return cls(
            parts=tuple(map(part_from_dict, values["parts"])),
            stop_reason=None if reason is None else StopReason(reason),
            usage=Usage.from_dict(values["usage"]),
        )


@dataclass(frozen=True, init=False)
class Reply:
    """One version of the model's answer to a turn, as a sequence of steps.

    Args:
        id: its id in the store.
        version: 1, 2, … in the order the versions were generated.
        text: the text of a reply with one step; `steps` replaces it.
        stop_reason: why that step stopped, likewise.
        error: what failed; None for nothing.
        model: what generated it; `plugin:NAME` where a plugin gave the whole reply without a model,
            empty where it is unknown.
        adapter: name of the LoRA adapter, None for none.
        settings: JSON of the sampling settings that were used, with the seed.
        usage: the cost of the one step.
        created: None for now.
        steps: the steps, at least one; empty for one step with `text`, `stop_reason` and
            `usage`.
    """

    id: int
    version: int
    steps: tuple[ReplyStep, ...]
    error: str | None
    model: str
    adapter: str | None
    settings: str
    created: datetime

    def __init__(
        self,
        id: int,
        version: int,
        text: str = "",
        stop_reason: StopReason | None = None,
        error: str | None = None,
        model: str = "",
        adapter: str | None = None,
        settings: str = "{}",
        usage: Usage | None = None,
        created: datetime | None = None,
        steps: Iterable[ReplyStep] = (),
    ) -> None:
        steps = tuple(steps)
        if steps and (text or stop_reason is not None or usage is not None):
            raise TypeError("a reply takes steps, or the text, stop reason and usage of one step")
        plain = ReplyStep((Text(text),) if text else (), stop_reason, usage or Usage())
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "version", version)
        object.__setattr__(self, "steps", steps or (plain,))
        object.__setattr__(self, "error", error)
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "adapter", adapter)
        object.__setattr__(self, "settings", settings)
        object.__setattr__(self, "created", created or utc_now())

    @property
    def text(self) -> str:
        """The text parts of all steps, joined."""
        return "".join(step.text for step in self.steps)

    @property
    def reasoning(self) -> str:
        """The reasoning parts of all steps, joined."""
        return "".join(step.reasoning for step in self.steps)

    @property
    def thoughts(self) -> Reasoning:
        """The reasoning parts of all steps as one, with what they took together."""
        return join_thoughts(part for part in self.parts if isinstance(part, Reasoning))

    @property
    def plugin(self) -> str:
        """The plugin that gave the whole reply without a model; empty for none."""
        name = self.model.removeprefix(PLUGIN_MODEL_PREFIX)
        return name if name != self.model else ""

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of all steps, in order."""
        return tuple(part for step in self.steps for part in step.parts)

    @property
    def is_plain(self) -> bool:
        """Whether it is one step with only text, or nothing."""
        return len(self.steps) == 1 and self.steps[0].is_plain

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the last step stopped; None while it grows, or in the store, where the program
        ended first."""
        return self.steps[-1].stop_reason

    @property
    def usage(self) -> Usage:
        """The cost of all steps."""
        return sum((step.usage for step in self.steps), Usage())

    @property
    def sampling(self) -> dict[str, Any]:
        """`settings` as JSON values; empty where they cannot be read."""
        try:
            values = json.loads(self.settings)
        except ValueError:
            return {}
        return values if isinstance(values, dict) else {}

    @property
    def can_continue(self) -> bool:
        """Whether it was cut short and can be continued."""
        return self.stop_reason is None or self.stop_reason.can_continue

    def with_delta(
        self, text: str, part: StreamedPart = "text", thought: Reasoning | None = None
    ) -> Reply:
        """Return the reply with more text at the end of its last step; see `append_text`."""
        *earlier, last = self.steps
        longer = dataclasses.replace(last, parts=append_text(last.parts, text, part, thought))
        return dataclasses.replace(self, steps=(*earlier, longer))

    def with_stop_reason(self, stop_reason: StopReason | None) -> Reply:
        """Return the reply with another stop reason of its last step."""
        *earlier, last = self.steps
        return dataclasses.replace(
            self, steps=(*earlier, dataclasses.replace(last, stop_reason=stop_reason))
        )

    def messages(self, pinned: bool = False) -> tuple[Message, ...]:
        """The reply in a prompt; empty if the model has not replied yet."""
        return tuple(message for step in self.steps for message in step.messages(pinned))

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values; `steps` only where there is more than text."""
        values: dict[str, Any] = {
            "id": self.id,
            "version": self.version,
            "text": self.text,
            "stop_reason": self.stop_reason and self.stop_reason.value,
            "error": self.error,
            "model": self.model,
            "adapter": self.adapter,
            "settings": self.settings,
            "usage": self.usage.to_dict(),
            "created": self.created.isoformat(),
        }
        if not self.is_plain:
            values["steps"] = [step.to_dict() for step in self.steps]
        return values
