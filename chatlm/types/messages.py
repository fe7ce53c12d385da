"""Messages, and what plugins add to them, as frozen values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from chatlm.types.parts import Image, Part, PreparedImage, Text, part_from_dict, text_of, with_text

Role = Literal["system", "user", "assistant", "tool"]
"""Who speaks in a message; `tool` gives the results of tool calls."""


@dataclass(frozen=True, init=False)
class Message:
    """One role's message, as parts.

    Args:
        role: who speaks.
        parts: the content; a plain string means one `Text` part.
        pinned: keep it in the prompt when others are dropped.
    """

    role: Role
    parts: tuple[Part, ...]
    pinned: bool = False

    def __init__(self, role: Role, parts: str | Iterable[Part] = (), pinned: bool = False) -> None:
        if isinstance(parts, str):
            parts = (Text(parts),) if parts else ()
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "parts", tuple(parts))
        object.__setattr__(self, "pinned", pinned)

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return text_of(self.parts)

    @property
    def is_plain(self) -> bool:
        """Whether it has only text, or nothing."""
        return all(isinstance(part, Text) for part in self.parts)

    def with_text(self, text: str) -> Message:
        """Return the message with another text; all other parts stay."""
        return Message(self.role, with_text(self.parts, text), self.pinned)

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values: `content` for plain text, else also `parts`."""
        values: dict[str, Any] = {"role": self.role, "content": self.text, "pinned": self.pinned}
        if not self.is_plain:
            values["parts"] = [part.to_dict() for part in self.parts]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Message:
        """Restore from the values of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: a key is missing or has an invalid value.
        """
        parts = values["content"]
        if "parts" in values:
            parts = map(part_from_dict, values["parts"])
        return cls(values["role"], parts, values.get("pinned", False))


@dataclass(frozen=True)
class Passage:
    """A chunk of a document that may help to answer."""

    text: str
    source: str
    """The file, with a heading or page where known."""
    score: float
    """Relevance; higher is better, on the retriever's own scale."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More from its retriever, as JSON values."""
    images: tuple[Image, ...] = ()
    """Pictures that belong to it; see `with_images`."""
    contents: Mapping[str, bytes] = field(default_factory=dict, compare=False, repr=False)
    """Bytes of `images` by SHA-256 in hex, until they are stored."""

    def __post_init__(self) -> None:
        json.dumps(dict(self.details), allow_nan=False)  # fail here rather than when it is saved

    def with_images(self, images: Iterable[PreparedImage]) -> Passage:
        """Return the passage with more pictures: the user sees them, and a model that reads images.

        Args:
            images: from `read_image`.
        """
        added = {each.image.sha256: each for each in images}
        return dataclasses.replace(
            self,
            images=(*self.images, *(each.image for each in added.values())),
            contents={**self.contents, **{key: each.content for key, each in added.items()}},
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values; `images` only where there are any."""
        values = {
            "text": self.text,
            "source": self.source,
            "score": self.score,
            "details": dict(self.details),
        }
        if self.images:
            values["images"] = [image.to_dict() for image in self.images]
        return values


@dataclass(frozen=True)
class Annotation:
    """A label on a message: shown and searchable, never sent to the model."""

    plugin: str
    name: str
    value: str
    score: float | None = None
    icon: str = ""
    """An emoji or another symbol shown with the label; empty for none."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "plugin": self.plugin,
            "name": self.name,
            "value": self.value,
            "score": self.score,
            "icon": self.icon,
        }
