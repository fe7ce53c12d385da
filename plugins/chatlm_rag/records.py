"""Dataclasses from the plain values of a JSON file that somebody else may have written."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


def parse_record(record_type: type[T], **values: Any) -> T:
    """A record of values from a JSON object.

    Raises:
        TypeError: a field is missing, or a text or whole number is none.
    """
    made = record_type(**values)
    for name, hint in record_type.__annotations__.items():
        if hint in ("str", "int") and type(getattr(made, name)).__name__ != hint:
            raise TypeError(f"{name} is no {hint}")
    return made
