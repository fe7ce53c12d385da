"""Dataclasses from the plain values of a JSON file that somebody else may have written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def record(kind: type[T], table: Mapping[str, Any], **parts: Any) -> T:
    """A record of a JSON object's values, and of parts that are made already.

    Raises:
        TypeError: a field is missing or unknown, or a text or whole number is none.
    """
    made = kind(**{**table, **parts})
    for name, hint in kind.__annotations__.items():
        if hint in ("str", "int") and type(getattr(made, name)).__name__ != hint:
            raise TypeError(f"{name} is no {hint}")
    return made
