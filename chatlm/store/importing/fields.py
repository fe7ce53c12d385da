"""Parsed chats, and JSON objects with type-checked access to their fields."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from chatlm.store.rows import BlobLookup
from chatlm.types.conversations import Conversation
from chatlm.types.messages import Annotation, Passage
from chatlm.types.provenance import Provenance, Trace

MAX_INTEGER = 2**63 - 1
"""Maximum of an SQLite integer."""


class InvalidChat(ValueError):
    """A chat in a file is invalid; the message has no full stop."""


def _no_blob(sha256: str) -> bytes | None:
    return None


@dataclass(frozen=True)
class ParsedChat:
    """One chat of a file; its ids are unique within it only."""

    conversation: Conversation
    created_known: bool
    """Whether the file says when the chat was created."""
    forks: tuple[Conversation, ...] = ()
    """Its other branches, each complete, with ids of their own."""
    passages: Mapping[int, Sequence[Passage]] = field(default_factory=dict)
    """By turn id."""
    annotations: Mapping[int, Sequence[tuple[int | None, Annotation]]] = field(default_factory=dict)
    """By turn id, each with its reply's id."""
    provenance: Mapping[int, Provenance] = field(default_factory=dict)
    """By reply id."""
    traces: Mapping[int, Sequence[Trace]] = field(default_factory=dict)
    """By turn id."""
    blobs: BlobLookup = _no_blob
    """The images' bytes by hash."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """What chatlm cannot represent, in the plural -> how many."""


def check_time_range(time: datetime) -> datetime:
    """Return the time if every time zone can show it.

    Raises:
        ValueError: it is too near an end of the calendar.
    """
    if not 1 < time.year < 9999:
        raise ValueError("out of range")
    return time


class JsonObject:
    """A JSON object whose fields are checked when they are read.

    Args:
        value: any JSON value.
        location: names the object in messages; empty for the chat itself.

    Raises:
        InvalidChat: it is not an object; from any method: the field is missing or has another
            type.
    """

    def __init__(self, value: Any, location: str = "") -> None:
        self.location = location
        if not isinstance(value, dict):
            raise self.error(f"must be an object, not {_describe_type(value)}")
        self.value: dict[str, Any] = value

    def error(self, problem: str) -> InvalidChat:
        """Return an error about this object."""
        return InvalidChat(f"{self.location or 'the chat'}: {problem}")

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string; it is required if `default` is None."""
        value = self.value.get(name, default)
        if not isinstance(value, str):
            raise self._type_error(name, "text")
        return value

    def optional_text(self, name: str) -> str | None:
        """Return a string; None for null or a missing field."""
        return None if self.value.get(name) is None else self.text(name)

    def boolean(self, name: str) -> bool:
        """Return a boolean; false if missing."""
        value = self.value.get(name, False)
        if not isinstance(value, bool):
            raise self._type_error(name, "true or false")
        return value

    def non_negative_int(self, name: str) -> int:
        """Return an integer of at least 0; 0 if missing."""
        value = self.value.get(name, 0)
        if type(value) is not int or not 0 <= value <= MAX_INTEGER:
            raise self._type_error(name, "a whole number from 0")
        return value

    def number(self, name: str) -> float | None:
        """Return a finite number; None for null or a missing field."""
        value = self.value.get(name)
        if value is None:
            return None
        try:
            if type(value) in (int, float) and math.isfinite(value):
                return float(value)
        except OverflowError:
            pass
        raise self._type_error(name, "a number")

    def time(self, name: str) -> datetime:
        """Return a time in ISO 8601; UTC if it has no zone."""
        text = self.text(name)
        try:
            time = datetime.fromisoformat(text)
            return check_time_range(
                (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
            )
        except (ValueError, OverflowError):
            raise self._type_error(name, "a time such as 2026-01-31T12:00:00+00:00") from None

    def object_array(self, name: str) -> list[JsonObject]:
        """Return a list of objects; empty if missing."""
        one = name.removesuffix("s").replace("replie", "reply")
        before = f"{self.location}, " if self.location else ""
        return [
            JsonObject(value, f"{before}{one} {number}")
            for number, value in enumerate(self.array(name), start=1)
        ]

    def array(self, name: str) -> list[Any]:
        """Return a list; empty if missing."""
        value = self.value.get(name, [])
        if not isinstance(value, list):
            raise self._type_error(name, "a list")
        return value

    def text_array(self, name: str) -> tuple[str, ...]:
        """Return a list of strings; empty if missing."""
        values = self.array(name)
        if not all(isinstance(value, str) for value in values):
            raise self._type_error(name, "a list of texts")
        return tuple(values)

    def nested(self, name: str) -> JsonObject:
        """Return a nested object; an empty one if missing."""
        return JsonObject(
            self.value.get(name, {}), f"{self.location}, {name}" if self.location else name
        )

    def _type_error(self, name: str, expected: str) -> InvalidChat:
        if name not in self.value:
            return self.error(f"{name} is missing")
        return self.error(f"{name} must be {expected}, not {_describe_type(self.value[name])}")


def _describe_type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"{value:g}" if abs(value) < 1e15 else "such a number"
        case str():
            return f"{value!r}" if len(value) <= 40 else "such a text"
        case dict():
            return "an object"
        case _:
            return "a list"
