"""Protocols of a loaded model: `Engine`, `Batch` and `EngineInfo`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from chatlm.errors import UsageError
from chatlm.text import one_line
from chatlm.types.events import EngineEvent, Prefill
from chatlm.types.memory import MemoryBudget
from chatlm.types.messages import Message
from chatlm.types.requests import Prompt, Request
from chatlm.types.sampling import Sampling, Thinking


@dataclass(frozen=True)
class EngineInfo:
    """Description of a loaded model."""

    model: str
    """Name that opens the same model again."""
    device: str
    """`cpu`, `cuda:0`, `mps`, …, or several joined by `+`."""
    weights: str
    """How its weights are held, such as `8-bit` or `16-bit, transformers`."""
    context_length: int
    """Maximum number of tokens of prompt and reply together."""
    prompt_format: str
    """`template` (the model's own), `chatml`, `alpaca`, `vicuna` or `raw`."""
    default_sampling: Sampling
    """Defaults for settings that a request leaves open; what is open here too is decided by the
    model's server."""
    notes: tuple[str, ...] = ()
    """Notes for the user, such as a fallback that was used."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Library name -> version, for the libraries that run the model."""
    recommended_sampling: Sampling = field(default_factory=Sampling)
    """The part of `default_sampling` that the model's authors recommend."""
    num_parameters: int | None = None
    """None if unknown."""
    memory: MemoryBudget | None = None
    """What it needs in memory; None if unknown."""
    adapters: tuple[str, ...] = ()
    """Names of the adapters that the model's server offers; a request may name one."""
    accepts: frozenset[str] = frozenset({"text"})
    """Types of message parts that a request may hold, such as text, image or tool_call. Reasoning
    need not be among them: an engine leaves it out of prompts that do not want it. With tool_call,
    a request may offer tools."""
    part_hints: Mapping[str, str] = field(default_factory=dict)
    """What the user can do about types of parts that it does not accept, by type."""
    thinks: bool | None = None
    """Whether the model thinks before it answers; None where only its server knows."""
    thinking_levels: tuple[Thinking, ...] = ()
    """Values of `Sampling.thinking` that it follows, besides auto, if `thinks` is true."""
    tools_in_system_prompt: bool = False
    """Whether chatlm describes tools in the system prompt, since the chat template knows none."""
    constraints: frozenset[str] = frozenset()
    """What an answer can be bound to: `schema`, and kinds of grammars (`regex`, `lark`, `gbnf`)."""
    raw_prompts: frozenset[str] = frozenset()
    """What it takes with `Request.raw`: `text` to continue, and `gap` for two texts with a gap."""
    kv_cache: str = ""
    """How its KV cache is held if that rounds keys and values, such as `8-bit`; empty otherwise."""
    draft_model: str = ""
    """Name of the model that drafts tokens for it; empty for none."""


def _why_no_tools(info: EngineInfo) -> str:
    return f"prompts in the format {info.prompt_format or 'of its server'} do not describe any"


def check_parts(request: Request, info: EngineInfo) -> None:
    """Refuse a request with a tool, message part, schema or grammar that is not accepted.

    Raises:
        UsageError: it has one; the message names the part and the model.
    """
    if request.tools and "tool_call" not in info.accepts:
        raise UsageError(
            f"The model {info.model} cannot call tools: {_why_no_tools(info)}",
            hint="Choose a model that can, or ask without tools.",
        )
    gap = len(request.messages) > 1
    if request.raw and ("gap" if gap else "text") not in info.raw_prompts:
        what = "fill gaps: its tokenizer has no tokens for that" if gap else "continue a raw text"
        raise UsageError(
            f"The model {info.model} cannot {what}",
            hint="Choose a model that can, such as qwen2.5-coder."
            if gap
            else "Choose a local model, or send messages.",
        )
    if request.raw and any(
        part.type == "image" for each in request.messages for part in each.parts
    ):
        raise UsageError(
            "A raw prompt is text alone", hint="Send the image in a message, without `raw`."
        )
    wanted = "schema" if request.sampling.schema else request.grammar and request.grammar.kind
    if wanted and wanted not in info.constraints:
        what = "JSON schemas" if wanted == "schema" else f"grammars of the kind {wanted}"
        raise UsageError(
            f"The model {info.model} does not support {what}",
            hint="Choose a local model, or ask without it.",
        )
    for message in request.messages:
        for part in message.parts:
            if part.type != "reasoning" and part.type not in info.accepts:
                what = (
                    "images" if part.type == "image" else f"message parts of the type {part.type}"
                )
                raise UsageError(
                    f"The model {info.model} does not accept {what}",
                    hint=info.part_hints.get(
                        part.type, "Choose a model that does, or start a new chat without it."
                    ),
                )


def check_no_method(request: Request) -> None:
    """Refuse a request whose reply a method makes: an engine only generates.

    Raises:
        UsageError: it names one.
    """
    if method := request.sampling.reply_method:
        raise UsageError(
            f"The method {one_line(method[0], 30)} runs the model several times for a reply, which "
            "works in a chat and with `chatlm ask` only",
            hint="Set method to off, or ask there.",
        )


def thinking_problem(thinking: Thinking | None, info: EngineInfo) -> UsageError | None:
    """Return why a model does not follow a value of `Sampling.thinking`; None if it does."""
    if thinking in (None, "auto") or info.thinks is None or thinking in info.thinking_levels:
        return None
    name = one_line(info.model, 60)
    if not info.thinks:
        if thinking == "off":
            return None
        return UsageError(
            f"{name} does not think before it answers, so thinking = {thinking} has no effect",
            hint="Leave thinking at auto, or choose a model that thinks.",
        )
    if info.thinking_levels:
        known = ", ".join(("auto", *info.thinking_levels))
        return UsageError(
            f"{name} does not support thinking = {thinking}", hint=f"It supports: {known}."
        )
    return UsageError(
        f"{name} cannot change how much it thinks, so thinking = {thinking} has no effect",
        hint="Leave thinking at auto; thinking_budget limits its thoughts.",
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
    """A loaded model."""

    @property
    def info(self) -> EngineInfo:
        """The description of the model."""
        ...

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """Generate: `PromptReady`, `Prefill`s, a `Delta` for each token, then `Finished`.

        The consumer pulls one token at a time. `close()` on the generator cancels within a token.
        One stream runs at a time; a second waits for the first.

        Raises:
            UsageError: a message has a part that is not in `info.accepts`.
            ContextTooLong: the newest message alone does not fit the context window.
            EngineError: the model failed.
        """
        ...

    def batch(self) -> Batch:
        """Open a batch, for several requests at once; `chatlm.SequentialBatch` is a simple one."""
        ...

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        """Prefill of a request's prompt what a request with one more message shares.

        Pulled and closed like `stream`. It never changes a result.
        """
        ...

    def preview(self, request: Request) -> Prompt:
        """Encode the prompt that `stream` would prefill; may run during a stream.

        Raises:
            UsageError, ContextTooLong, ModelError: see `stream`.
        """
        ...

    def count_tokens(self, messages: Iterable[Message]) -> int:
        """Count the tokens of the messages in a prompt, control tokens included."""
        ...

    def close(self) -> None:
        """Release the model's memory."""
        ...


@runtime_checkable
class ImageEngine(Engine, Protocol):
    """An engine that knows how many tokens images take; it reads them if `info.accepts` has
    `image`."""

    def image_tokens(self, width: int, height: int) -> int:
        """Count the tokens of an image in a prompt, in microseconds.

        Args:
            width: in pixels.
            height: in pixels.

        Raises:
            UsageError: the model does not read images.
        """
        ...


def count_image_tokens(engine: Engine, width: int, height: int) -> int | None:
    """Count the tokens that an image takes in a prompt.

    Args:
        engine: of the model.
        width: of the image, in pixels.
        height: of the image, in pixels.

    Returns:
        None where the model does not read images, or only its server knows.
    """
    if "image" not in engine.info.accepts or not isinstance(engine, ImageEngine):
        return None
    return engine.image_tokens(width, height)


EngineOpener = Callable[[str], Engine]
"""`(name) -> engine`: opens a model by its name without the scheme."""


class Batch(Protocol):
    """Requests that one engine runs concurrently; each may be added and cancelled at any time.

    Each reply equals that of `Engine.stream`. Not thread-safe.
    """

    @property
    def max_concurrency(self) -> int:
        """Maximum number of concurrent requests, at least 1."""
        ...

    def __len__(self) -> int:
        """Return the number of unfinished requests."""
        ...

    def add(self, request: Request) -> int:
        """Add a request, while there are fewer than `max_concurrency`.

        Returns:
            its index: how many were added before it.
        """
        ...

    def cancel(self, index: int) -> None:
        """Cancel a request; no event of it follows."""
        ...

    def step(self) -> Sequence[tuple[int, EngineEvent | Exception]]:
        """Advance all requests by about one token each.

        Returns:
            the events, each with the index of its request; may be empty. `Finished`, or an
            exception as `Engine.stream` raises it, is the last of a request.
        """
        ...

    def close(self) -> None:
        """Cancel all requests."""
        ...
