"""What one generation is: the request that says everything, and the engine that carries it out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from chatlm.events import EngineEvent, Prefill
from chatlm.messages import Message
from chatlm.sampling import Sampling

LogitsProcessor = Callable[[Any, Any], Any]
"""`(input_ids, scores) -> scores`, both torch tensors of shape (1, tokens) and (1, vocabulary)."""

StoppingCriterion = Callable[[Any, Any], Any]
"""`(input_ids, scores) -> stop`, as in transformers: a bool or a bool tensor of shape (1,)."""


@dataclass(frozen=True)
class Request:
    """What to generate from, and how; an engine has no hidden mode beside it."""

    messages: tuple[Message, ...]
    """System prompt first if there is one, then user and assistant in turn. A last message of
    the assistant is gone on with, from its own end."""
    sampling: Sampling = field(default_factory=Sampling)
    adapter: str | None = None
    processors: tuple[LogitsProcessor, ...] = ()
    criteria: tuple[StoppingCriterion, ...] = ()


@dataclass(frozen=True)
class EngineInfo:
    """What the screen says about a loaded model."""

    model: str
    device: str
    """cpu, cuda:0, mps, …, or several joined by +."""
    dtype: str
    """bfloat16, float32, 8bit, …"""
    context_length: int
    """Tokens that prompt and reply may have together."""
    prompt_format: str
    """template (the model's own), chatml, alpaca or vicuna."""
    defaults: Sampling
    """What a request that leaves a setting open gets."""
    notes: tuple[str, ...] = ()
    """What the person should know, such as a fallback that was taken."""


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

    def count_tokens(self, messages: Iterable[Message]) -> int:
        """Tokens the messages take in a prompt, control tokens included."""
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...


EngineOpener = Callable[[str], Engine]
"""Opens a model by its name, without the scheme."""
