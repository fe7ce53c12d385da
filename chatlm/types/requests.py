"""Request, Prompt, PromptToken, prompt_hash, LogitsProcessor, StoppingCriterion."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from chatlm.errors import UsageError
from chatlm.types.events import MAX_TOP_LOGPROBS
from chatlm.types.messages import Message
from chatlm.types.sampling import Sampling

LogitsProcessor = Callable[[Any, Any], Any]
"""`(input_ids, scores) -> scores`, both torch tensors of shape (1, tokens) and (1, vocabulary)."""


StoppingCriterion = Callable[[Any, Any], Any]
"""`(input_ids, scores) -> stop`, as in transformers: a bool or a bool tensor of shape (1,)."""


@dataclass(frozen=True)
class Request:
    """What to generate from, and how; an engine has no hidden mode beside it.

    Raises:
        UsageError: `logprobs` is out of its range.
    """

    messages: tuple[Message, ...]
    """System prompt first if there is one, then user and assistant in turn. A last message of
    the assistant is gone on with, from its own end."""
    sampling: Sampling = field(default_factory=Sampling)
    adapter: str | None = None
    logits_processors: tuple[LogitsProcessor, ...] = ()
    stopping_criteria: tuple[StoppingCriterion, ...] = ()
    reply_complete: bool = False
    """Whether that last message of the assistant is the whole reply; then no engine is asked."""
    logprobs: int | None = None
    """How many of the likeliest tokens to tell beside each token that is chosen, 0 to 20, see
    `Delta.tokens`; None tells nothing. It changes no token, and an engine may be unable to tell."""

    def __post_init__(self) -> None:
        wanted = self.logprobs
        if wanted is not None and (type(wanted) is not int or not 0 <= wanted <= MAX_TOP_LOGPROBS):
            raise UsageError(f"logprobs must be 0 to {MAX_TOP_LOGPROBS}, not {wanted!r}")


@dataclass(frozen=True)
class PromptToken:
    """One token of a prompt."""

    id: int
    text: str
    """The piece of the prompt it covers; empty for a further token of one character."""
    control: bool = False
    """Whether it is one of the model's control tokens, which only the format puts in."""
    message_index: int | None = None
    """Index, in the request's messages, of the content it stands in; None for the format's own."""


@dataclass(frozen=True)
class Prompt:
    """What a request becomes: the very tokens that the model reads."""

    tokens: tuple[PromptToken, ...]
    message_tokens: tuple[int, ...]
    """Tokens that each of the request's messages takes with the format around it; those that were
    left out too."""
    omitted: tuple[int, ...]
    """Indices of the messages that do not fit."""
    context_length: int
    """Tokens that prompt and reply may have together."""
    reply_reserve: int
    """Tokens of `limit` that are kept for the reply."""
    hash: str
    """See `prompt_hash`."""
    estimated: bool = False
    """Whether the tokens are only guessed, since another machine writes the real ones."""


def prompt_hash(ids: Sequence[int]) -> str:
    """SHA-256 of a prompt's token ids, four bytes each, the lowest first; in hex."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()
