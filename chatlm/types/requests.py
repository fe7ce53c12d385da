"""Requests to an engine, and the prompts they become."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlm.errors import UsageError
from chatlm.text import one_line
from chatlm.types.events import MAX_TOP_LOGPROBS
from chatlm.types.messages import Message
from chatlm.types.parts import Image
from chatlm.types.replies import StopReason
from chatlm.types.sampling import Sampling
from chatlm.types.schemas import Grammar, Schema, check_depth, parse_grammar, parse_schema

LogitsProcessor = Callable[[Any, Any], Any]
"""`(input_ids, scores) -> scores`, both torch tensors of shape (1, tokens) and (1, vocabulary)."""


StoppingCriterion = Callable[[Any, Any], Any]
"""`(input_ids, scores) -> stop`, as in transformers: a bool or a bool tensor of shape (1,)."""


@dataclass(frozen=True)
class ToolDefinition:
    """A tool that a model may call, as it is described to the model.

    Raises:
        UsageError: the schema of its arguments is nested too deeply.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of its arguments, an object."""

    def __post_init__(self) -> None:
        try:
            check_depth(self.parameters)
        except UsageError as error:
            raise UsageError(f"The tool {one_line(self.name, 60)}: {error.message}") from None

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values in the form of OpenAI's API, which chat templates read."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": dict(self.parameters),
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ToolDefinition:
        """Restore from the values of `to_dict`.

        Raises:
            KeyError, TypeError: a key is missing or has an invalid value.
        """
        function = values["function"]
        return cls(function["name"], function["description"], function["parameters"])


TOOL_CHOICES = ("auto", "none", "required")
"""Values of `Request.tool_choice` beside the names of tools; only the last needs a tool."""


@dataclass(frozen=True)
class Request:
    """Everything that determines one generation; an engine has no other mode.

    Raises:
        UsageError: `logprobs` is out of range, two tools have one name, or `tool_choice` names no
            tool.
    """

    messages: tuple[Message, ...]
    """The system prompt first if there is one, then the turns. If the last message is the
    assistant's, it is continued from its end."""
    sampling: Sampling = field(default_factory=Sampling)
    adapter: str | None = None
    """Name of the LoRA adapter; None for the model alone."""
    logits_processors: tuple[LogitsProcessor, ...] = ()
    stopping_criteria: tuple[StoppingCriterion, ...] = ()
    reply_complete: bool = False
    """Whether the assistant's last message is the whole reply, so that no engine is run."""
    reply_stop_reason: StopReason = StopReason.END
    """Why a complete reply ends, such as `nothing_relevant`."""
    logprobs: int | None = None
    """Number of likeliest alternatives to report for each sampled token in `Delta.logprobs`, 0 to
    20; None reports none. Sampling is not affected, and an engine may not support it."""
    adapter_fixed: bool = False
    """Whether the user chose `adapter`, or none, for this request, so that plugins cannot."""

    max_new_tokens: int | None = None
    """Limit of all new tokens, thoughts included; `sampling.max_tokens` limits the answer alone."""
    tools: tuple[ToolDefinition, ...] = ()
    """What the model may call; a reply that calls any stops with `tool_calls`."""
    tool_choice: str = "auto"
    """Whether it calls any: `auto` leaves it to the model, `none` forbids and `required` demands
    it; the name of a tool demands a call of that tool."""
    parallel_tool_calls: bool = True
    """Whether one reply may have several calls."""
    raw: bool = False
    """Whether the prompt is the messages' text itself, without a chat format: one message is
    continued; of two, the reply fills the gap between them."""
    cache_folder: Path | None = field(default=None, compare=False, repr=False)
    """Where the engine may keep the KV cache of the chat, so that it opens at once; None where
    nothing of it may be written. It never changes a result."""
    images: Mapping[str, bytes] = field(default_factory=dict, compare=False, repr=False)
    """Bytes of the messages' images, as files, by SHA-256 in hex; such as `Store.images`, which
    reads each from the disk when it is asked for."""

    def image_bytes(self, image: Image) -> bytes:
        """Return the bytes of an image of the messages.

        Raises:
            UsageError: `images` does not have them.
            StoreError: they cannot be read.
        """
        try:
            return self.images[image.sha256]
        except KeyError:
            raise UsageError(
                f"The bytes of the image {one_line(image.name, 60) or image.sha256[:12]} are not "
                "here",
                hint="Attach the image again.",
            ) from None

    @property
    def schema(self) -> Schema | None:
        """The JSON schema that the answer must fit, from the sampling settings."""
        return parse_schema(self.sampling.schema) if self.sampling.schema else None

    @property
    def grammar(self) -> Grammar | None:
        """The grammar that the answer must match, from the sampling settings."""
        return parse_grammar(self.sampling.grammar) if self.sampling.grammar else None

    def __post_init__(self) -> None:
        count = self.logprobs
        if count is not None and (type(count) is not int or not 0 <= count <= MAX_TOP_LOGPROBS):
            raise UsageError(f"logprobs must be 0 to {MAX_TOP_LOGPROBS}, not {count!r}")
        names = [tool.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise UsageError("Two tools have the same name")
        if self.tool_choice not in (*TOOL_CHOICES[: 3 if names else 2], *names):
            raise UsageError(
                f"tool_choice must be {', '.join(TOOL_CHOICES)} or the name of a tool, not "
                f"{self.tool_choice!r}, and there must be a tool to demand a call"
            )


@dataclass(frozen=True)
class PromptToken:
    """One token of a prompt."""

    id: int
    text: str
    """The text it covers; empty for a later token of one character."""
    control: bool = False
    """Whether it is a control token of the model, which only the chat format inserts."""
    message_index: int | None = None
    """Index of its message in the request; None for tokens of the chat format."""
    part: str = "text"
    """Type of the part of its message that it belongs to, such as `reasoning`."""


@dataclass(frozen=True)
class Prompt:
    """The encoded request: the exact tokens the model reads."""

    tokens: tuple[PromptToken, ...]
    message_tokens: tuple[int, ...]
    """Number of tokens of each of the request's messages with the chat format around it; of omitted
    ones, estimated from their text alone."""
    omitted: tuple[int, ...]
    """Indices of the messages that did not fit."""
    context_length: int
    """Maximum number of tokens of prompt and reply together."""
    reply_reserve: int
    """Tokens of `context_length` that are reserved for the reply."""
    hash: str
    """As returned by `prompt_hash`."""
    estimated: bool = False
    """Whether the tokens are an estimate, because a remote server encodes the real prompt."""


def prompt_hash(ids: Sequence[int]) -> str:
    """Return the SHA-256 of token ids as little-endian 32-bit integers, in hex."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()
