"""Dataclasses from the plain values of a JSON file that somebody else may have written."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


def parse_record(kind: type[T], **values: Any) -> T:
    """A record of values from a JSON object.

    Raises:
        TypeError: a field is missing, or a text or whole number is none.
    """
    made = kind(**values)
    for name, hint in kind.__annotations__.items():
        if hint in ("str", "int") and type(getattr(made, name)).__name__ != hint:
            raise TypeError(f"{name} is no {hint}")
    return made
