"""Engine and Batch protocols, EngineInfo, EngineOpener."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from chatlm.errors import UsageError
from chatlm.types.events import EngineEvent, Prefill
from chatlm.types.messages import Message
from chatlm.types.requests import Prompt, Request
from chatlm.types.sampling import Sampling


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
    default_sampling: Sampling
    """What a request that leaves a setting open gets; what this leaves open too is not chatlm's to
    say, but a server's."""
    notes: tuple[str, ...] = ()
    """What the person should know, such as a fallback that was taken."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries that compute, by name."""
    recommended_sampling: Sampling = field(default_factory=Sampling)
    """The part of `defaults` that the model itself asks for."""
    num_parameters: int | None = None
    """How many numbers the model has learned; None where that is not known."""
    adapters: tuple[str, ...] = ()
    """Names of adapters that come with the model, such as a server's; a request may name one."""
    accepts: frozenset[str] = frozenset({"text"})
    """Types of message parts that a request may hold, such as text, image or tool_call. Reasoning
    need not be among them: an engine leaves it out of prompts that do not want it."""


def check_parts(request: Request, info: EngineInfo) -> None:
    """Refuse a request with a message part that the engine does not accept.

    Raises:
        UsageError: it has one; the message names the part and the model.
    """
    for message in request.messages:
        for part in message.parts:
            if part.type != "reasoning" and part.type not in info.accepts:
                raise UsageError(
                    f"The model {info.model} does not accept message parts of the type {part.type}",
                    hint="Choose a model that does, or start a new chat without it.",
                )


@dataclass(frozen=True)
class ModelListing:
    """A model that a plugin's engine can open."""

    name: str
    """As `--model` takes it, such as `openai:gpt-oss@lab`."""
    description: str = ""
    context_length: int | None = None
    """Tokens; None where it is not known."""
    abilities: tuple[str, ...] = ()
    """What it accepts or does beyond text: `tools`, `images`, `schema`, `thinking`."""


class Engine(Protocol):
    """One loaded model."""

    @property
    def info(self) -> EngineInfo:
        """What this engine is."""
        ...

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """Generate: `PromptReady`, `Prefill`s, a `Delta` for each token, then `Finished`.

        Pulled by the consumer, one token a pull. `close()` on the generator cancels within a
        token. One stream runs at a time; a second waits for the first.

        Raises:
            UsageError: a message has a part that is not in `info.accepts`.
            ContextTooLong: the newest message does not fit, whatever else is left out.
            EngineError: the model failed; its message says what to do.
        """
        ...

    def batch(self) -> Batch:
        """Open a batch, for several requests at once; `chatlm.SequentialBatch` is a simple one."""
        ...

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        """Read the request's prompt without answering, so that a later one like it starts sooner.

        Pulled and closed like `stream`; changes no result, only when it comes.
        """
        ...

    def preview(self, request: Request) -> Prompt:
        """The prompt that `stream` would read; waits for no stream and may run beside one.

        Raises:
            UsageError, ContextTooLong, ModelError: see `stream`.
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


class Batch(Protocol):
    """Requests that one engine answers at once; each comes and goes at any time.

    A reply is the one that `Engine.stream` would give. For one thread.
    """

    @property
    def max_concurrency(self) -> int:
        """So many requests it answers at once, at least 1."""
        ...

    def __len__(self) -> int:
        """How many have not ended."""
        ...

    def add(self, request: Request) -> int:
        """Take up one more, while there are less than `at_once`.

        Returns:
            Its number: how many came before it.
        """
        ...

    def cancel(self, index: int) -> None:
        """Make no more of one; nothing comes of it any more."""
        ...

    def step(self) -> Sequence[tuple[int, EngineEvent | Exception]]:
        """Go on with all of them a little: about a token each.

        Returns:
            What came, with the number of its request; perhaps nothing yet. `Finished` or an
            exception, as `Engine.stream` raises it, is the last of a request.
        """
        ...

    def close(self) -> None:
        """Drop all."""
        ...
