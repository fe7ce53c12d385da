"""Messages, replies, turns and conversations as frozen values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from chatlm.errors import EXIT_INTERRUPTED
from chatlm.types.parts import (
    Image,
    Part,
    PreparedImage,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    append_text,
    join_thoughts,
    part_from_dict,
    reasoning_of,
    text_of,
    with_text,
)
from chatlm.types.projects import Project
from chatlm.types.sampling import Sampling
from chatlm.types.tool_rules import ChatTools

Role = Literal["system", "user", "assistant", "tool"]
"""Who speaks in a message; `tool` gives the results of tool calls."""

StreamedPart = Literal["text", "reasoning"]
"""The parts that arrive token by token; tool calls arrive whole."""


PluginData = Mapping[str, Mapping[str, Any]]
"""Plugin name -> JSON values by name."""


PLUGIN_MODEL_PREFIX = "plugin:"
"""Begins `Reply.model` where a plugin gave the whole reply."""


SUMMARY_PREFIX = "Earlier in this chat, in short: "
"""Precedes the summary of a turn in the prompt."""


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class ContextPolicy(StrEnum):
    """How a turn takes part in the prompt."""

    AUTO = "auto"
    """Included as long as it fits the context window."""
    PINNED = "pinned"
    """Always included; other turns are left out before it."""
    DROPPED = "dropped"
    """Left out."""
    SUMMARISED = "summarised"
    """`Turn.summary` replaces it."""


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


@dataclass(frozen=True, init=False)
class Message:
    """One role's message, as parts.

    Args:
        role: who speaks.
        parts: the content; a plain string means one `Text` part.
        pinned: keep it in the prompt when others are dropped.
    """

    role: Role
    parts: tuple[Part, ...]
    pinned: bool = False

    def __init__(self, role: Role, parts: str | Iterable[Part] = (), pinned: bool = False) -> None:
        if isinstance(parts, str):
            parts = (Text(parts),) if parts else ()
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "parts", tuple(parts))
        object.__setattr__(self, "pinned", pinned)

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return text_of(self.parts)

    @property
    def is_plain(self) -> bool:
        """Whether it has only text, or nothing."""
        return all(isinstance(part, Text) for part in self.parts)

    def with_text(self, text: str) -> Message:
        """Return the message with another text; all other parts stay."""
        return Message(self.role, with_text(self.parts, text), self.pinned)

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values: `content` for plain text, else also `parts`."""
        values: dict[str, Any] = {"role": self.role, "content": self.text, "pinned": self.pinned}
        if not self.is_plain:
            values["parts"] = [part.to_dict() for part in self.parts]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Message:
        """Restore from the values of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: a key is missing or has an invalid value.
        """
        parts = values["content"]
        if "parts" in values:
            parts = map(part_from_dict, values["parts"])
        return cls(values["role"], parts, values.get("pinned", False))


@dataclass(frozen=True)
class Passage:
    """A chunk of a document that may help to answer."""

    text: str
    source: str
    """The file, with a heading or page where known."""
    score: float
    """Relevance; higher is better, on the retriever's own scale."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More from its retriever, as JSON values."""
    images: tuple[Image, ...] = ()
    """Pictures that belong to it; see `with_images`."""
    contents: Mapping[str, bytes] = field(default_factory=dict, compare=False, repr=False)
    """Bytes of `images` by SHA-256 in hex, until they are stored."""

    def __post_init__(self) -> None:
        json.dumps(dict(self.details), allow_nan=False)  # fail here rather than when it is saved

    def with_images(self, images: Iterable[PreparedImage]) -> Passage:
        """Return the passage with more pictures: the user sees them, and a model that reads images.

        Args:
            images: from `read_image`.
        """
        added = {each.image.sha256: each for each in images}
        return dataclasses.replace(
            self,
            images=(*self.images, *(each.image for each in added.values())),
            contents={**self.contents, **{key: each.content for key, each in added.items()}},
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values; `images` only where there are any."""
        values = {
            "text": self.text,
            "source": self.source,
            "score": self.score,
            "details": dict(self.details),
        }
        if self.images:
            values["images"] = [image.to_dict() for image in self.images]
        return values


@dataclass(frozen=True)
class Annotation:
    """A label on a message: shown and searchable, never sent to the model."""

    plugin: str
    name: str
    value: str
    score: float | None = None
    icon: str = ""
    """An emoji or another symbol shown with the label; empty for none."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "plugin": self.plugin,
            "name": self.name,
            "value": self.value,
            "score": self.score,
            "icon": self.icon,
        }


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


@dataclass(frozen=True)
class Turn:
    """One user message and everything that answers it."""

    id: int
    position: int
    """0 for the first turn of its conversation."""
    user: Message
    replies: tuple[Reply, ...] = ()
    active_reply_id: int | None = None
    """Id of the reply that is in the history; None for the newest."""
    created: datetime = field(default_factory=utc_now)
    context_policy: ContextPolicy = ContextPolicy.AUTO
    summary: str = ""
    """Kept whether or not it replaces the turn."""
    raw_input: str = ""
    """What the user typed, where a plugin rewrote it into the message; the message itself while
    plugins have not seen it; else empty."""
    annotations: tuple[tuple[int | None, Annotation], ...] = ()
    """Labels, each with the id of its reply; None for the user's message."""
    passage_images: tuple[Image, ...] = ()
    """Pictures of the passages that were retrieved for it."""

    @property
    def reply(self) -> Reply | None:
        """The version of the reply that is in the history."""
        for reply in self.replies:
            if reply.id == self.active_reply_id:
                return reply
        return self.replies[-1] if self.replies else None

    @property
    def display_text(self) -> str:
        """What the user typed."""
        return self.raw_input or self.user.text

    @property
    def is_raw(self) -> bool:
        """Whether plugins have not had the chance to rewrite the message; so it stays where the
        program ended first."""
        return bool(self.raw_input) and self.raw_input == self.user.text

    @property
    def is_rewritten(self) -> bool:
        """Whether the model reads something else than the user typed."""
        return bool(self.raw_input) and self.raw_input != self.user.text

    def messages(self) -> tuple[Message, ...]:
        """Return the turn's messages in the prompt; none for a dropped turn."""
        if self.context_policy is ContextPolicy.DROPPED:
            return ()
        if self.context_policy is ContextPolicy.SUMMARISED and self.summary:
            return (Message("user", f"{SUMMARY_PREFIX}{self.summary}"),)
        pinned = self.context_policy is ContextPolicy.PINNED
        user = Message(self.user.role, self.user.parts, pinned)
        return (user, *(self.reply.messages(pinned) if self.reply else ()))


@dataclass(frozen=True)
class ConversationHeader:
    """All of a chat but its turns."""

    id: int
    title: str = ""
    system: str = ""
    created: datetime = field(default_factory=utc_now)
    updated: datetime = field(default_factory=utc_now)
    sampling: Sampling = field(default_factory=Sampling)
    """The user's settings for this chat."""
    pinned: bool = False
    """Whether it is listed first."""
    forked_from: int | None = None
    """The chat it was copied from; None once that is deleted."""
    plugin_data: PluginData = field(default_factory=dict)
    """What plugins store with the chat."""
    disabled_plugins: frozenset[str] = frozenset()
    """Plugins that the user disabled in this chat."""
    project: Project | None = None
    """The folder that it belongs to; None for none."""
    tags: tuple[str, ...] = ()
    """The user's tags, sorted."""
    tools: ChatTools = field(default_factory=ChatTools)
    """What the user decided about tools in this chat."""

    @property
    def system_prompt(self) -> str:
        """The whole system prompt: the chat's own, then the project's instructions."""
        parts = (self.system, self.project.prompt if self.project else "")
        return "\n\n".join(filter(None, parts))


@dataclass(frozen=True)
class Conversation(ConversationHeader):
    """A chat with its turns."""

    turns: tuple[Turn, ...] = ()

    def with_header(self, header: ConversationHeader) -> Conversation:
        """Return these turns under another header."""
        fields = {f.name: getattr(header, f.name) for f in dataclasses.fields(ConversationHeader)}
        return dataclasses.replace(self, **fields)

    def with_turn(self, turn: Turn) -> Conversation:
        """Return the chat with this turn in place of the one with its id, else appended."""
        turns = tuple(turn if other.id == turn.id else other for other in self.turns)
        if turn not in turns:
            turns += (turn,)
        return dataclasses.replace(self, turns=turns)

    def images(self) -> Iterator[Image]:
        """Yield the images of all messages, retrieved passages and versions of replies."""
        for turn in self.turns:
            yield from turn.passage_images
            for parts in (turn.user.parts, *(reply.parts for reply in turn.replies)):
                yield from (part for part in parts if isinstance(part, Image))

    def messages(self, before: int | None = None) -> tuple[Message, ...]:
        """Return the prompt's messages: the system prompt, then those of each turn.

        Args:
            before: position of the first turn to leave out; None for none.
        """
        system = self.system_prompt
        head = (Message("system", system),) if system else ()
        return head + tuple(m for turn in self.turns[:before] for m in turn.messages())
