"""Fitted, Prefill, Delta, Finished; turn events; TokenLogprob, ShownTokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from chatlm.types.messages import (
    Annotation,
    Message,
    Passage,
    Reply,
    StopReason,
    StreamedPart,
    Turn,
    Usage,
)
from chatlm.types.parts import ToolCall

MAX_TOP_LOGPROBS = 20
"""So many may be asked for, as in OpenAI's API."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token, with the probability that the model gave it where it stands."""

    bytes: bytes
    """What it stands for: a part of a character, too; of a control token, its name."""
    logprob: float
    """Natural logarithm of the probability, out of the softmax over the model's own logits for all
    tokens: before logits processors, penalties, temperature, top-k, top-p and min-p."""
    top_logprobs: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens in its place, the likeliest first; those have none of their own."""

    @property
    def text(self) -> str:
        """The bytes as text; a part of a character is shown as �."""
        return self.bytes.decode("utf-8", "replace")

    def to_dict(self) -> dict[str, Any]:
        """As OpenAI's API has it, ready for JSON."""
        return self._without_alternatives() | {
            "top_logprobs": [each._without_alternatives() for each in self.top_logprobs]
        }

    def _without_alternatives(self) -> dict[str, Any]:
        return {"token": self.text, "logprob": self.logprob, "bytes": list(self.bytes)}


class LogprobBuffer:
    """Keeps tokens back until all of their text is shown.

    So none says what is withheld, such as a beginning stop string, or was cut off. A token that
    brings no text of its own, such as a part of a character, belongs to the text that follows.
    """

    def __init__(self) -> None:
        self._textless: list[TokenLogprob] = []
        self._pending: deque[tuple[int, TokenLogprob]] = deque()
        """With the number of characters at which each ends."""
        self._generated_length = self._released_length = 0

    def feed(self, tokens: Iterable[TokenLogprob], text: str) -> None:
        """Add tokens, and the text that they brought."""
        self._textless += tokens
        if text:
            self._generated_length += len(text)
            self._pending += ((self._generated_length, token) for token in self._textless)
            self._textless.clear()

    def release(self, text: str) -> tuple[TokenLogprob, ...]:
        """The tokens that are shown in full once this text, too, is shown."""
        self._released_length += len(text)
        taken = []
        while self._pending and self._pending[0][0] <= self._released_length:
            taken.append(self._pending.popleft()[1])
        return tuple(taken)


# --- from an engine -----------------------------------------------------------------------


@dataclass(frozen=True)
class PromptReady:
    """The prompt is built and fits the context."""

    prompt_tokens: int
    context_length: int
    """Tokens that prompt and reply may have together."""
    omitted_messages: tuple[Message, ...] = ()
    """The oldest messages, which did not fit."""
    cached_tokens: int = 0
    """How many of the prompt's tokens need no reading, since the turn before left them."""
    prompt_hash: str = ""
    """See `Prompt.hash`."""


@dataclass(frozen=True)
class Prefill:
    """The model has read `done` of the prompt's `total` tokens."""

    done: int
    total: int


@dataclass(frozen=True)
class Delta:
    """One more token was generated; `text` is what can be shown of it, perhaps nothing yet."""

    text: str
    withheld: str = ""
    """Text withheld so far because it may become a stop string; kept if the reply ends here."""
    usage: Usage = field(default_factory=Usage)
    """What the generation has cost so far."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """If `Request.logprobs` is set: the tokens whose text is now shown in full. The token that
    ends a reply and one that a stop string cuts into are never among them."""
    part: StreamedPart = "text"
    """The part that `text` and `withheld` belong to: the answer, or the reasoning before it."""


@dataclass(frozen=True)
class Finished:
    """The last event of a stream."""

    stop_reason: StopReason
    usage: Usage
    matched_stop: str | None = None
    """The stop string or criterion that ended it."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The tools the model called, in order, if `stop_reason` is `tool_calls`."""


EngineEvent = PromptReady | Prefill | Delta | Finished


# --- from a session -----------------------------------------------------------------------


@dataclass(frozen=True)
class TurnStarted:
    """The user's message is stored."""

    conversation_id: int
    turn: Turn


@dataclass(frozen=True)
class MessageAnnotated:
    """Labels for the user's message or the reply."""

    role: str
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True)
class PassagesFound:
    """What retrieval found for this turn."""

    passages: tuple[Passage, ...]


@dataclass(frozen=True)
class ReplyStarted:
    """A reply exists and will grow; `reply.text` is not empty when an earlier one goes on."""

    turn_id: int
    reply: Reply


@dataclass(frozen=True)
class Notice:
    """Something the person should know: what failed or was done differently, and what to do."""

    text: str


@dataclass(frozen=True)
class TurnFinished:
    """The turn is complete and stored."""

    turn: Turn


SessionEvent = (
    TurnStarted
    | MessageAnnotated
    | PassagesFound
    | ReplyStarted
    | EngineEvent
    | Notice
    | TurnFinished
)
