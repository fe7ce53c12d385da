"""Typed reads of the fields of a JSON object, for files that another program may have written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def get_str(values: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """Return a string field.

    Args:
        values: the JSON object.
        key: the field.
        default: returned if the field is missing; with None, the field is required.

    Raises:
        KeyError: the field is missing and required.
        TypeError: it is not a string.
    """
    value = values[key] if default is None else values.get(key, default)
    if type(value) is not str:
        raise TypeError(f"{key} is not a string")
    return value


def get_int(values: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Return an integer field; true and false are not integers.

    Args:
        values: the JSON object.
        key: the field.
        default: returned if the field is missing; with None, the field is required.

    Raises:
        KeyError: the field is missing and required.
        TypeError: it is not an integer.
    """
    value = values[key] if default is None else values.get(key, default)
    if type(value) is not int:
        raise TypeError(f"{key} is not an integer")
    return value
