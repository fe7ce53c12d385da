"""The parts of a message: text, reasoning, tool calls and results, images and files."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

ToolOutcome = Literal["", "denied", "timed out", "stopped", "interrupted"]
"""Why a call has no output of its tool: the user or a rule denied it, it took too long, the user
stopped the reply, or the program ended while it ran."""

TOOL_OUTCOMES: tuple[ToolOutcome, ...] = get_args(ToolOutcome)

MAX_IMAGES = 20
"""Maximum number of images of one message, and of the passages for it."""

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Text:
    """The text of a message."""

    type: ClassVar[str] = "text"
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {"type": self.type, "text": self.text}


@dataclass(frozen=True)
class Reasoning:
    """What a model thinks before it answers. Not sent back unless the model's template wants it."""

    type: ClassVar[str] = "reasoning"
    text: str
    seconds: float | None = None
    """How long the model thought; None where it is not known."""
    tokens: int | None = None
    """How many tokens the model thought; None where it is not known."""

    @property
    def cost(self) -> str:
        """What it took, such as `8 s · 412 tokens`; empty where it is not known."""
        facts = []
        if self._is_timed:
            facts.append(_format_seconds(self.seconds or 0.0))
        if self.tokens is not None:
            facts.append(f"{self.tokens:,} token{'s' * (self.tokens != 1)}")
        return " · ".join(facts)

    @property
    def caption(self) -> str:
        """A line that stands for it, such as `Thought for 8 s · 412 tokens`."""
        cost = self.cost
        if not cost:
            return "Thought"
        return f"Thought for {cost}" if self._is_timed else f"Thought · {cost}"

    @property
    def _is_timed(self) -> bool:
        return self.seconds is not None and self.seconds >= 0.05

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values; `seconds` and `tokens` only where they are known."""
        cost = {"seconds": self.seconds, "tokens": self.tokens}
        known = {name: value for name, value in cost.items() if value is not None}
        return {"type": self.type, "text": self.text, **known}


@dataclass(frozen=True)
class ToolCall:
    """A model's request to run a tool."""

    type: ClassVar[str] = "tool_call"
    id: str
    """Unique within the conversation; the result repeats it."""
    name: str
    arguments: str
    """A JSON object as the model wrote it; it may be invalid."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {"type": self.type, "id": self.id, "name": self.name, "arguments": self.arguments}


@dataclass(frozen=True)
class ToolResult:
    """What a tool returned."""

    type: ClassVar[str] = "tool_result"
    call_id: str
    """`ToolCall.id` of the call it answers."""
    name: str
    text: str
    """What the model reads."""
    is_error: bool = False
    outcome: ToolOutcome = ""
    """Why the tool returned nothing itself; empty where it did."""
    seconds: float | None = None
    """How long it ran; None where it did not, or that is not known."""
    untrusted: bool = False
    """Whether the text comes from outside: data, never instructions."""
    source: str = ""
    """Where the text came from, for the user."""

    @property
    def status(self) -> str:
        """How it went, such as `done` or `denied`."""
        return self.outcome or ("failed" if self.is_error else "done")

    @property
    def cost(self) -> str:
        """What it took, such as `0.3 s`; empty where that is not known or next to nothing."""
        return "" if (self.seconds or 0.0) < 0.05 else _format_seconds(self.seconds or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values; what is not set is left out, from `outcome` on."""
        extra = {
            "outcome": self.outcome or None,
            "seconds": self.seconds,
            "untrusted": self.untrusted or None,
            "source": self.source or None,
        }
        return {
            "type": self.type,
            "call_id": self.call_id,
            "name": self.name,
            "text": self.text,
            "is_error": self.is_error,
            **{name: value for name, value in extra.items() if value is not None},
        }


@dataclass(frozen=True)
class Image:
    """A picture. Its bytes are stored once, by hash, next to the database.

    Raises:
        ValueError: a size is not positive, or `sha256` is not a SHA-256 in lower-case hex.
    """

    type: ClassVar[str] = "image"
    media_type: str
    """Such as `image/png`."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    sha256: str
    """Hash of its bytes, in hex."""
    name: str = ""
    """Of the file it came from; empty when unknown."""

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1 or not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"invalid image: {self.width}×{self.height}, {self.sha256!r}")

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "type": self.type,
            "media_type": self.media_type,
            "width": self.width,
            "height": self.height,
            "sha256": self.sha256,
            "name": self.name,
        }


@dataclass(frozen=True)
class PreparedImage:
    """An image as it is stored and sent."""

    image: Image
    """The message part, which describes `content`."""
    content: bytes
    """A PNG or JPEG file in RGB, with no metadata."""
    notes: tuple[str, ...] = ()
    """What differs from the file that was read, such as `first frame only`."""
    offset: int = 0
    """Characters of the message's text before it."""


@dataclass(frozen=True)
class File:
    """A text file that the user attached."""

    type: ClassVar[str] = "file"
    name: str
    text: str
    media_type: str = "text/plain"

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "type": self.type,
            "name": self.name,
            "text": self.text,
            "media_type": self.media_type,
        }


Part = Text | Reasoning | ToolCall | ToolResult | Image | File
"""One piece of content of a message."""

_TYPES: dict[str, type[Part]] = {
    kind.type: kind for kind in (Text, Reasoning, ToolCall, ToolResult, Image, File)
}


def part_from_dict(values: Mapping[str, Any]) -> Part:
    """Restore from the values of a part's `to_dict`; unknown keys are ignored.

    Raises:
        KeyError, TypeError, ValueError: the type is unknown, or a field is missing or invalid.
    """
    kind = _TYPES[values["type"]]
    fields: Mapping[str, Any] = kind.__dataclass_fields__
    known = {name: value for name, value in values.items() if name in fields and name != "type"}
    return kind(**known)


def _format_seconds(seconds: float) -> str:
    if seconds < 0.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,} min {rest} s" if minutes else f"{rest} s"


def text_of(parts: Iterable[Part]) -> str:
    """Join the `Text` parts."""
    return "".join(part.text for part in parts if isinstance(part, Text))


def reasoning_of(parts: Iterable[Part]) -> str:
    """Join the `Reasoning` parts."""
    return "".join(part.text for part in parts if isinstance(part, Reasoning))


def merge_texts(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Join `Text` parts that follow each other."""
    merged: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and merged and isinstance(merged[-1], Text):
            merged[-1] = Text(merged[-1].text + part.text)
        else:
            merged.append(part)
    return tuple(merged)


def summarise_parts(parts: Iterable[Part]) -> str:
    """Return how much there is of each type, such as `reasoning, text, 2 × tool call`."""
    counts = Counter(part.type.replace("_", " ") for part in parts)
    return ", ".join(name if n == 1 else f"{n} × {name}" for name, n in counts.items())


def append_text(
    parts: tuple[Part, ...], text: str, part_type: str = "text", thought: Reasoning | None = None
) -> tuple[Part, ...]:
    """Append text to the last part if it has this type (`text` or `reasoning`), else add a part.

    Args:
        parts: the parts so far.
        text: the text to append.
        part_type: where it belongs.
        thought: of a thought, what it took so far with this text; its own text is ignored.
    """
    if not text:
        return parts
    new: Text | Reasoning = Text(text)
    if part_type == Reasoning.type:
        new = dataclasses.replace(thought or Reasoning(""), text=text)
    if parts and isinstance(last := parts[-1], Text | Reasoning) and last.type == new.type:
        return (*parts[:-1], dataclasses.replace(new, text=last.text + text))
    return (*parts, new)


def join_thoughts(thoughts: Iterable[Reasoning]) -> Reasoning:
    """Join thoughts; what they took together is known if it is known of each."""
    thoughts = tuple(thoughts)
    seconds = [thought.seconds for thought in thoughts if thought.seconds is not None]
    tokens = [thought.tokens for thought in thoughts if thought.tokens is not None]
    return Reasoning(
        "".join(thought.text for thought in thoughts),
        sum(seconds) if len(seconds) == len(thoughts) > 0 else None,
        sum(tokens) if len(tokens) == len(thoughts) > 0 else None,
    )


def with_text(parts: Iterable[Part], text: str) -> tuple[Part, ...]:
    """Replace the `Text` parts by one, at the place of the first; at the end if there was none."""
    replaced: list[Part] = []
    missing = True
    for part in parts:
        if not isinstance(part, Text):
            replaced.append(part)
        elif missing:
            replaced += [Text(text)] * bool(text)
            missing = False
    if missing and text:
        replaced.append(Text(text))
    return tuple(replaced)
