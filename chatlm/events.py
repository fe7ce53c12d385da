"""What happens during a turn, as values; producers yield them, consumers match on them."""

from __future__ import annotations

from dataclasses import dataclass, field

from chatlm.logprobs import TokenLogprob
from chatlm.messages import Annotation, Message, Passage, Reply, StopReason, Turn, Usage

# --- from an engine -----------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """The prompt is built and fits the context."""

    prompt_tokens: int
    limit: int
    """Tokens that prompt and reply may have together."""
    left_out: tuple[Message, ...] = ()
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
    """One more token was made; `text` is what can be shown of it, perhaps nothing yet."""

    text: str
    held: str = ""
    """Text withheld so far because it may become a stop string; kept if the reply ends here."""
    usage: Usage = field(default_factory=Usage)
    """What the generation has cost so far."""
    tokens: tuple[TokenLogprob, ...] = ()
    """Where `Request.logprobs` asks for them: those whose text is now shown in full. The token that
    ends a reply and one that a stop string cuts into are never among them."""


@dataclass(frozen=True)
class Finished:
    """The last event of a stream."""

    stop_reason: StopReason
    usage: Usage
    stop: str | None = None
    """The stop string or criterion that ended it."""


EngineEvent = Fitted | Prefill | Delta | Finished

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
