"""The values a chat is made of; they know nothing of models, storage or screens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

from chatlm.types.parts import Part, Text, part_from_dict, text_of, with_text
from chatlm.types.sampling import Sampling

Role = Literal["system", "user", "assistant", "tool"]


PluginData = Mapping[str, Mapping[str, Any]]
"""Plain values, as JSON has them, by plugin and name."""


SUMMARY_PREFIX = "Earlier in this chat, in short: "
"""What the model reads before the summary of a turn."""


def utc_now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


class ContextPolicy(StrEnum):
    """How a turn takes part in what the model reads."""

    AUTO = "auto"
    """Read as long as it fits the context."""
    PINNED = "pinned"
    """Read always; other turns leave before it."""
    DROPPED = "dropped"
    """Not read."""
    SUMMARISED = "summarised"
    """`Turn.summary` is read in its place."""


class StopReason(StrEnum):
    """Why a reply stopped growing."""

    END = "end"
    """The model ended its turn."""
    STOP_STRING = "stop_string"
    """One of the request's stop strings appeared; it is not part of the text."""
    LENGTH = "length"
    """`max_tokens` new tokens were made."""
    CONTEXT_FULL = "context_full"
    """No room was left in the model's context."""
    CRITERION = "criterion"
    """A stopping criterion added to the request said so."""
    CANCELLED = "cancelled"
    """The person stopped it."""
    ERROR = "error"
    """Something failed; `Reply.error` says what."""

    @property
    def can_continue(self) -> bool:
        """Whether the reply was cut short, so that going on from its text makes sense."""
        return self not in (StopReason.END, StopReason.STOP_STRING)


@dataclass(frozen=True, init=False)
class Message:
    """One role's message, as parts.

    Args:
        role: who speaks.
        parts: the content; a plain string stands for one `Text` part.
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
        """Whether text is all it has."""
        return all(isinstance(part, Text) for part in self.parts)

    def with_text(self, text: str) -> Message:
        """Return the message with another text; all other parts stay."""
        return Message(self.role, with_text(self.parts, text), self.pinned)

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values: `content` for plain text, else `parts` beside it."""
        values: dict[str, Any] = {"role": self.role, "content": self.text, "pinned": self.pinned}
        if not self.is_plain:
            values["parts"] = [part.to_dict() for part in self.parts]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Message:
        """Read back what `to_dict` returned.

        Raises:
            KeyError, TypeError, ValueError: a key is missing or has an invalid value.
        """
        parts = values["content"]
        if "parts" in values:
            parts = map(part_from_dict, values["parts"])
        return cls(values["role"], parts, values.get("pinned", False))


@dataclass(frozen=True)
class Passage:
    """A piece of a document that may help to answer."""

    text: str
    source: str
    """Where it stands: a file, with a heading or page where known."""
    score: float
    """Relevance; higher is better, the scale is the retriever's."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else its retriever knows of it: plain values, as JSON has them."""

    def __post_init__(self) -> None:
        json.dumps(dict(self.details), allow_nan=False)  # to fail where the value came from

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "text": self.text,
            "source": self.source,
            "score": self.score,
            "details": dict(self.details),
        }


@dataclass(frozen=True)
class Annotation:
    """A label on a message, shown and searchable, not sent to the model."""

    plugin: str
    name: str
    value: str
    score: float | None = None
    icon: str = ""
    """An emoji or another sign that stands beside the words; empty for none."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "plugin": self.plugin,
            "name": self.name,
            "value": self.value,
            "score": self.score,
            "icon": self.icon,
        }


@dataclass(frozen=True)
class Usage:
    """What one generation cost."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """How many of the prompt's tokens were reused from the turn before."""
    completion_tokens: int = 0
    first_token_seconds: float | None = None
    """From the call of `stream` to the first new token; None when there was none."""
    decode_seconds: float = 0.0
    """From the first new token to the last."""

    @property
    def tokens_per_second(self) -> float | None:
        """Decode speed after the first token; None when too few tokens were made."""
        if self.completion_tokens < 2 or self.decode_seconds <= 0:
            return None
        return (self.completion_tokens - 1) / self.decode_seconds

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "first_token_seconds": self.first_token_seconds,
            "decode_seconds": self.decode_seconds,
        }


@dataclass(frozen=True)
class Reply:
    """One version of the model's answer to a turn."""

    id: int
    version: int
    """1, 2, … in the order the versions were made."""
    text: str = ""
    stop_reason: StopReason | None = None
    """None while it grows; a stored reply that still says None was cut off with the program."""
    error: str | None = None
    model: str = ""
    """Empty where no model wrote it, or it is not known which."""
    adapter: str | None = None
    settings: str = "{}"
    """JSON of the sampling that made it, with the seed that was used."""
    usage: Usage = field(default_factory=Usage)
    created: datetime = field(default_factory=utc_now)

    @property
    def sampling(self) -> dict[str, Any]:
        """`settings` as plain values; empty where they cannot be read."""
        try:
            values = json.loads(self.settings)
        except ValueError:
            return {}
        return values if isinstance(values, dict) else {}

    @property
    def can_continue(self) -> bool:
        """Whether there is something to go on from."""
        return self.stop_reason is None or self.stop_reason.can_continue

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
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


@dataclass(frozen=True)
class Turn:
    """One user message and all that answers it."""

    id: int
    position: int
    """0 for the first turn of its conversation."""
    user: Message
    replies: tuple[Reply, ...] = ()
    active_reply_id: int | None = None
    """Id of the reply that stands in the history; None takes the newest."""
    created: datetime = field(default_factory=utc_now)
    context_policy: ContextPolicy = ContextPolicy.AUTO
    summary: str = ""
    """Kept whether or not it stands for the turn."""
    raw_input: str = ""
    """What the person typed, where a plugin made the message of it; else empty."""
    annotations: tuple[tuple[int | None, Annotation], ...] = ()
    """Labels, each with the id of the reply it is on; None for the user's message."""

    @property
    def reply(self) -> Reply | None:
        """The version that stands in the history."""
        for reply in self.replies:
            if reply.id == self.active_reply_id:
                return reply
        return self.replies[-1] if self.replies else None

    @property
    def display_text(self) -> str:
        """What the person typed for it."""
        return self.raw_input or self.user.text

    def messages(self) -> tuple[Message, ...]:
        """The turn as the model reads it; none for a dropped one."""
        if self.context_policy is ContextPolicy.DROPPED:
            return ()
        if self.context_policy is ContextPolicy.SUMMARISED and self.summary:
            return (Message("user", f"{SUMMARY_PREFIX}{self.summary}"),)
        pinned = self.context_policy is ContextPolicy.PINNED
        user = Message(self.user.role, self.user.text, pinned)
        if self.reply is None or not self.reply.text:
            return (user,)
        return (user, Message("assistant", self.reply.text, pinned))


@dataclass(frozen=True)
class Conversation:
    """A system prompt and its turns."""

    id: int
    title: str = ""
    system: str = ""
    turns: tuple[Turn, ...] = ()
    created: datetime = field(default_factory=utc_now)
    updated: datetime = field(default_factory=utc_now)
    sampling: Sampling = field(default_factory=Sampling)
    """What the person set for this chat."""
    pinned: bool = False
    """Listed first."""
    forked_from: int | None = None
    """The chat this one began as a copy of, while that exists."""
    plugin_data: PluginData = field(default_factory=dict)
    """What plugins keep with the chat."""
    disabled_plugins: frozenset[str] = frozenset()
    """Plugins that the person switched off in this chat."""

    def messages(self, before: int | None = None) -> tuple[Message, ...]:
        """The conversation as the model reads it: system prompt, then each turn's messages.

        Args:
            before: leave out the turns from this position on.
        """
        head = (Message("system", self.system),) if self.system else ()
        return head + tuple(m for turn in self.turns[:before] for m in turn.messages())
