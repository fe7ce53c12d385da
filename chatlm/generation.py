"""What one generation is: the request that says everything, and the engine that carries it out."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from chatlm.errors import UsageError
from chatlm.events import EngineEvent, Prefill
from chatlm.logprobs import MOST_ALTERNATIVES
from chatlm.messages import Message
from chatlm.sampling import Sampling

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
    processors: tuple[LogitsProcessor, ...] = ()
    criteria: tuple[StoppingCriterion, ...] = ()
    complete: bool = False
    """Whether that last message of the assistant is the whole reply; then no engine is asked."""
    logprobs: int | None = None
    """How many of the likeliest tokens to tell beside each token that is chosen, 0 to 20, see
    `Delta.tokens`; None tells nothing. It changes no token, and an engine may be unable to tell."""

    def __post_init__(self) -> None:
        wanted = self.logprobs
        if wanted is not None and (type(wanted) is not int or not 0 <= wanted <= MOST_ALTERNATIVES):
            raise UsageError(f"logprobs must be 0 to {MOST_ALTERNATIVES}, not {wanted!r}")


@dataclass(frozen=True)
class EngineInfo:
    """What the screen says about a loaded model."""

    model: str
    """Given again, it opens the same model."""
    device: str
    """cpu, cuda:0, mps, …, or several joined by +."""
    dtype: str
    """bfloat16, float32, 8bit, …"""
    context_length: int
    """Tokens that prompt and reply may have together."""
    prompt_format: str
    """template (the model's own), chatml, alpaca or vicuna."""
    defaults: Sampling
    """What a request that leaves a setting open gets; what this leaves open too is not chatlm's to
    say, but a server's."""
    notes: tuple[str, ...] = ()
    """What the person should know, such as a fallback that was taken."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries that compute, by name."""
    suggested: Sampling = field(default_factory=Sampling)
    """The part of `defaults` that the model itself asks for."""
    weights: int | None = None
    """How many numbers the model has learned; None where that is not known."""
    adapters: tuple[str, ...] = ()
    """Names of adapters that come with the model, such as a server's; a request may name one."""


@dataclass(frozen=True)
class PromptToken:
    """One token of a prompt."""

    id: int
    text: str
    """The piece of the prompt it covers; empty for a further token of one character."""
    control: bool = False
    """Whether it is one of the model's control tokens, which only the format puts in."""
    message: int | None = None
    """Index, in the request's messages, of the content it stands in; None for the format's own."""


@dataclass(frozen=True)
class Prompt:
    """What a request becomes: the very tokens that the model reads."""

    tokens: tuple[PromptToken, ...]
    costs: tuple[int, ...]
    """Tokens that each of the request's messages takes with the format around it; those that were
    left out too."""
    left_out: tuple[int, ...]
    """Indices of the messages that do not fit."""
    limit: int
    """Tokens that prompt and reply may have together."""
    reserve: int
    """Tokens of `limit` that are kept for the reply."""
    hash: str
    """See `prompt_hash`."""
    estimated: bool = False
    """Whether the tokens are only guessed, since another machine writes the real ones."""


def prompt_hash(ids: Sequence[int]) -> str:
    """SHA-256 of a prompt's token ids, four bytes each, the lowest first; in hex."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()


@dataclass(frozen=True)
class Provenance:
    """What made a reply, as far as it can be written down."""

    messages: tuple[Message, ...]
    """The request's, without those that did not fit."""
    sampling: Sampling
    """Every value that held, and the seed."""
    model: str
    """Empty if none was asked: plugins gave the reply, and this is what one would be asked."""
    adapter: str | None = None
    prompt_format: str = ""
    device: str = ""
    dtype: str = ""
    context_length: int = 0
    prompt_hash: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """chatlm's and those of the libraries that computed, by name."""
    added: tuple[str, ...] = ()
    """Names of the logits processors and stopping criteria of plugins; a replay lacks them."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "messages": [message.to_dict() for message in self.messages],
            "sampling": self.sampling.to_dict(),
            "model": self.model,
            "adapter": self.adapter,
            "prompt_format": self.prompt_format,
            "device": self.device,
            "dtype": self.dtype,
            "context_length": self.context_length,
            "prompt_hash": self.prompt_hash,
            "versions": dict(self.versions),
            "added": list(self.added),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """Read back what `to_dict` made; a key that is not known is passed over.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        return cls(
            messages=tuple(map(Message.from_dict, values["messages"])),
            sampling=Sampling.from_dict(values["sampling"]),
            model=values["model"],
            adapter=values.get("adapter"),
            prompt_format=values.get("prompt_format", ""),
            device=values.get("device", ""),
            dtype=values.get("dtype", ""),
            context_length=values.get("context_length", 0),
            prompt_hash=values.get("prompt_hash", ""),
            versions=values.get("versions", {}),
            added=tuple(values.get("added", ())),
        )


class Engine(Protocol):
    """One loaded model."""

    @property
    def info(self) -> EngineInfo:
        """What this engine is."""
        ...

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """Generate: `Fitted`, then `Prefill`s, then a `Delta` for each token, then `Finished`.

        Pulled by the consumer, one token a pull. `close()` on the generator cancels within a
        token. One stream runs at a time; a second waits for the first.

        Raises:
            ContextTooLong: the newest message does not fit, whatever else is left out.
            EngineError: the model failed; its message says what to do.
        """
        ...

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        """Read the request's prompt without answering, so that a later one like it starts sooner.

        Pulled and closed like `stream`; changes no result, only when it comes.
        """
        ...

    def preview(self, request: Request) -> Prompt:
        """The prompt that `stream` would read; waits for no stream and may run beside one.

        Raises:
            ContextTooLong, ModelError: as `stream`.
        """
        ...

    def count_tokens(self, messages: Iterable[Message]) -> int:
        """Tokens the messages take in a prompt, control tokens included."""
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...


EngineOpener = Callable[[str], Engine]
"""Opens a model by its name, without the scheme."""
