"""Events that engines and sessions stream, and token log-probabilities."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from chatlm.text import one_line
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.messages import Annotation, Message, Passage
from chatlm.types.parts import Image, ToolCall, ToolResult
from chatlm.types.replies import Reply, StopReason, StreamedPart, Usage

MAX_TOP_LOGPROBS = 20
"""Maximum of `Request.logprobs`, as in OpenAI's API."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token with its probability at its position."""

    bytes: bytes
    """Its UTF-8 bytes, which may be part of a character; of a control token, its name."""
    logprob: float
    """Natural logarithm of its probability under a softmax over the model's raw logits: before
    logits processors, penalties, temperature, top-k, top-p and min-p."""
    top_logprobs: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens at its position, likeliest first; theirs is empty."""

    @property
    def text(self) -> str:
        """The bytes as text; an incomplete character becomes �."""
        return self.bytes.decode("utf-8", "replace")

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values in the form of OpenAI's API."""
        return self._without_alternatives() | {
            "top_logprobs": [each._without_alternatives() for each in self.top_logprobs]
        }

    def _without_alternatives(self) -> dict[str, Any]:
        return {"token": self.text, "logprob": self.logprob, "bytes": list(self.bytes)}


def logprobs_to_dict(tokens: Sequence[TokenLogprob], weights: str) -> dict[str, Any] | None:
    """Convert a reply's log-probabilities to JSON values, with their mean and the perplexity.

    Args:
        tokens: of the reply.
        weights: how the weights of the model were held, since rounding changes the perplexity by
            1 to 2 %.

    Returns:
        None if there are none.
    """
    if not tokens:
        return None
    mean = sum(token.logprob for token in tokens) / len(tokens)
    return {
        "mean": mean,
        "perplexity": math.exp(min(-mean, _MAX_EXPONENT)),
        "weights": weights,
        "tokens": [token.to_dict() for token in tokens],
    }


_MAX_EXPONENT = 700.0
"""About the largest exponent that math.exp accepts."""


class LogprobBuffer:
    """Buffer that releases tokens once all of their text is shown.

    So no token reveals text that is withheld, such as the beginning of a stop string, or cut off.
    A token without text of its own, such as part of a character, is released with the text that
    follows.
    """

    def __init__(self) -> None:
        self._textless: list[TokenLogprob] = []
        self._pending: deque[tuple[int, TokenLogprob]] = deque()
        """Each with the text length at its end."""
        self._generated_length = self._released_length = 0

    def feed(self, tokens: Iterable[TokenLogprob], text: str) -> None:
        """Add tokens and the text they decode to."""
        self._textless += tokens
        if text:
            self._generated_length += len(text)
            self._pending += ((self._generated_length, token) for token in self._textless)
            self._textless.clear()

    def release(self, text: str, dropped: int = 0) -> tuple[TokenLogprob, ...]:
        """Return the tokens whose text is complete once this text is shown.

        Args:
            text: the text.
            dropped: characters before it that are never shown, such as a marker; a token with
                nothing else is never released.
        """
        self._take(dropped)
        return self._take(len(text))

    def _take(self, length: int) -> tuple[TokenLogprob, ...]:
        """Remove the tokens that are complete after so many more characters."""
        self._released_length += length
        taken = []
        while self._pending and self._pending[0][0] <= self._released_length:
            taken.append(self._pending.popleft()[1])
        return tuple(taken)


# --- from an engine -----------------------------------------------------------------------


@dataclass(frozen=True)
class PromptReady:
    """The prompt is encoded and fits the context window."""

    prompt_tokens: int
    context_length: int
    """Maximum number of tokens of prompt and reply together."""
    omitted_messages: tuple[Message, ...] = ()
    """The oldest messages, which did not fit."""
    cached_tokens: int = 0
    """Prompt tokens found in the prompt cache, which need no prefill."""
    prompt_hash: str = ""
    """As `Prompt.hash`."""


@dataclass(frozen=True)
class Prefill:
    """`done` of the prompt's `total` tokens are prefilled."""

    done: int
    total: int


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
class Delta:
    """One more token was generated; `text` is what can be shown of it, perhaps nothing yet.

    A token that ends a thought may give two: the thought's last text, then the answer's first.
    """

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
    calls: tuple[ToolCallDelta, ...] = ()
    """What became certain of tool calls, after `text`; `Finished` has all of them as a whole."""
    repeats_call: bool = False
    """Whether `text` is that of a call whose beginning was among the `calls`, and which was cut."""

    @property
    def answer(self) -> str:
        """The text if it belongs to the answer, else none."""
        return self.text if self.part == "text" else ""


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
"""One event of `Engine.stream`."""


# --- from a session -----------------------------------------------------------------------


@dataclass(frozen=True)
class TurnStarted:
    """The user's message is stored as it was typed; plugins may rewrite it next."""

    conversation: Conversation
    """The chat, which ends with the turn; for an edited message, the fork."""
    turn: Turn


@dataclass(frozen=True)
class MessageRewritten:
    """A plugin rewrote the user's message; the turn has both."""

    turn: Turn


@dataclass(frozen=True)
class TurnWithdrawn:
    """A plugin refused the message, which is no longer stored; the error follows."""

    turn: Turn
    conversation_id: int | None
    """The chat in which the session continues: the original of a fork, None for a new chat."""


@dataclass(frozen=True)
class MessageAnnotated:
    """The user's message or the reply was labelled."""

    role: str
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True)
class PassagesFound:
    """Retrieval found passages for the turn."""

    passages: tuple[Passage, ...]

    @property
    def images(self) -> tuple[Image, ...]:
        """The passages' pictures."""
        return tuple(image for passage in self.passages for image in passage.images)


@dataclass(frozen=True)
class ReplyStarted:
    """A reply was stored and starts growing; it has text already if it is continued."""

    turn_id: int
    reply: Reply


@dataclass(frozen=True)
class StepStarted:
    """The results of the tools are stored, and the model writes on in the same reply."""

    reply: Reply
    """The reply so far, with the results."""


@dataclass(frozen=True)
class ToolPreview:
    """What the user sees of a call before it runs, in place of its arguments as JSON."""

    kind: Literal["command", "code", "diff", "text"]
    """`command` is for a shell, `code` a program, `diff` a unified diff."""
    text: str


@dataclass(frozen=True)
class Approval:
    """The user's answer to one call of a tool."""

    allowed: bool
    reason: str = ""
    """Why it is denied, for the model to read."""
    for_chat: bool = False
    """Whether the tool runs in this chat without asking from now on."""


@dataclass(frozen=True)
class CopiedText:
    """A piece of a call's arguments that was copied from text from outside."""

    text: str
    source: str
    """Where it comes from, for the user."""
    joined: bool = False
    """Whether it is an address and only the words of its host stand there."""

    def __str__(self) -> str:
        """Say where it comes from, without the text itself."""
        where = one_line(self.source, 80) or "text from outside"
        return f"Address joined from words of {where}" if self.joined else f"Copied from {where}"


@dataclass(eq=False)
class ApprovalNeeded:
    """A call waits for the user: set `answer` before the next event is pulled.

    Without an answer it is denied, as nobody was there to allow it.
    """

    call: ToolCall
    arguments: Mapping[str, Any]
    description: str
    """What the tool does, for the model and the user."""
    preview: ToolPreview | None = None
    """What to show in place of the arguments."""
    copied: tuple[CopiedText, ...] = ()
    """Pieces of the arguments that come from text from outside: perhaps the user did not want the
    call, but somebody who wrote that text."""
    interrupted: bool = False
    """Whether it ran before, and the program ended meanwhile: what it did is not known."""
    always: bool = False
    """Whether each call of the tool is asked about, so that it cannot be allowed for the chat."""
    answer: Approval | None = None


@dataclass(frozen=True)
class ToolStarted:
    """A call was allowed and runs."""

    call: ToolCall


@dataclass(frozen=True)
class ToolProgress:
    """A call runs; reported several times a second, whether there is news or not."""

    call: ToolCall
    seconds: float
    """How long it has been running."""
    text: str = ""
    """What it said last."""
    fraction: float | None = None
    """How much of it is done, 0 to 1; None where that is not known."""


@dataclass(eq=False)
class ToolQuestion:
    """A running tool asks: set `answer` before the next event is pulled; without, it is stopped."""

    call: ToolCall
    question: str
    choices: tuple[str, ...] = ()
    """The possible answers; none for any text."""
    answer: str | None = None


@dataclass(frozen=True)
class ToolFinished:
    """A call has a result, which is stored."""

    call: ToolCall
    result: ToolResult
    reply: Reply
    """The reply so far, with the result."""


ToolEvent = ApprovalNeeded | ToolStarted | ToolProgress | ToolQuestion | ToolFinished


@dataclass(frozen=True)
class Notice:
    """A message for the user: what failed or was done differently, and what to do."""

    text: str
    topic: str = ""
    """Its subject, if it may recur in later turns; it then replaces the earlier notice."""


@dataclass(frozen=True)
class TurnFinished:
    """The turn is complete and stored."""

    turn: Turn
    conversation: Conversation | None = None
    """The chat with this turn, which saves loading it again."""


SessionEvent = (
    TurnStarted
    | MessageRewritten
    | TurnWithdrawn
    | MessageAnnotated
    | PassagesFound
    | ReplyStarted
    | EngineEvent
    | StepStarted
    | ToolEvent
    | Notice
    | TurnFinished
)
