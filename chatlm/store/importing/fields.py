"""What importing makes of a chat, and JSON whose types are checked as it is taken apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from chatlm.types.messages import Annotation, Conversation, Passage
from chatlm.types.provenance import Provenance, Trace

MAX_INTEGER = 2**63 - 1
"""What the database holds in a whole number."""


class InvalidChat(ValueError):
    """What is wrong with a chat, in a sentence without a full stop."""


@dataclass(frozen=True)
class ParsedChat:
    """One chat of a file; the ids in it are only there to tell its parts apart."""

    conversation: Conversation
    created_known: bool
    """Whether the file says when the chat began."""
    forks: tuple[Conversation, ...] = ()
    """Other ways the chat went, each whole; their ids are not those of `conversation`."""
    passages: Mapping[int, Sequence[Passage]] = field(default_factory=dict)
    """By turn."""
    annotations: Mapping[int, Sequence[tuple[int | None, Annotation]]] = field(default_factory=dict)
    """By turn, each with the reply it is on."""
    provenance: Mapping[int, Provenance] = field(default_factory=dict)
    """By reply."""
    traces: Mapping[int, Sequence[Trace]] = field(default_factory=dict)
    """What plugins did, by turn, each with the reply it is of."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """What a chat of chatlm has no place for, in the plural, and how many there were."""


def check_time_range(time: datetime) -> datetime:
    """The time itself.

    Raises:
        ValueError: it is so near an end of the calendar that some clocks on earth cannot show it.
    """
    if not 1 < time.year < 9999:
        raise ValueError("out of range")
    return time


class JsonObject:
    """A JSON object.

    Args:
        value: what was read.
        location: which object it is, for messages; empty for the chat itself.

    Raises:
        BadChat: it is no object; from any method: the field is not there or has another type.
    """

    def __init__(self, value: Any, location: str = "") -> None:
        self.location = location
        if not isinstance(value, dict):
            raise self.error(f"must be an object, not {_describe_type(value)}")
        self.value: dict[str, Any] = value

    def error(self, problem: str) -> InvalidChat:
        """The error that says so about this object."""
        return InvalidChat(f"{self.location or 'the chat'}: {problem}")

    def text(self, name: str, default: str | None = None) -> str:
        """A text; None for `default` says that it must be there."""
        value = self.value.get(name, default)
        if not isinstance(value, str):
            raise self._type_error(name, "text")
        return value

    def optional_text(self, name: str) -> str | None:
        """A text, or None for null or nothing."""
        return None if self.value.get(name) is None else self.text(name)

    def boolean(self, name: str) -> bool:
        """True or false; false where it is not there."""
        value = self.value.get(name, False)
        if not isinstance(value, bool):
            raise self._type_error(name, "true or false")
        return value

    def non_negative_int(self, name: str) -> int:
        """A whole number from 0; 0 where it is not there."""
        value = self.value.get(name, 0)
        if type(value) is not int or not 0 <= value <= MAX_INTEGER:
            raise self._type_error(name, "a whole number from 0")
        return value

    def number(self, name: str) -> float | None:
        """A finite number, or None for null or nothing."""
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
        """A time in ISO 8601; in UTC where it names no zone."""
        text = self.text(name)
        try:
            time = datetime.fromisoformat(text)
            return check_time_range(
                (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
            )
        except (ValueError, OverflowError):
            raise self._type_error(name, "a time such as 2026-01-31T12:00:00+00:00") from None

    def object_array(self, name: str) -> list[JsonObject]:
        """A list of objects; empty where it is not there."""
        one = name.removesuffix("s").replace("replie", "reply")
        before = f"{self.location}, " if self.location else ""
        return [
            JsonObject(value, f"{before}{one} {number}")
            for number, value in enumerate(self.array(name), start=1)
        ]

    def array(self, name: str) -> list[Any]:
        """A list of whatever; empty where it is not there."""
        value = self.value.get(name, [])
        if not isinstance(value, list):
            raise self._type_error(name, "a list")
        return value

    def text_array(self, name: str) -> tuple[str, ...]:
        """A list of texts; empty where it is not there."""
        values = self.array(name)
        if not all(isinstance(value, str) for value in values):
            raise self._type_error(name, "a list of texts")
        return tuple(values)

    def nested(self, name: str) -> JsonObject:
        """An object in this one; an empty one where it is not there."""
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
