"""Read the fields of a client's JSON, with errors that name them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from chatlm import one_line
from chatlm_serve.errors import ApiError, field_error

T = TypeVar("T")

TYPE_NAMES: Mapping[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def without_nulls(values: Any, path: str) -> dict[str, Any]:
    """Return the fields of an object that are not null, which counts as missing.

    Args:
        values: the object.
        path: its name in an error.

    Raises:
        ApiError: it is not an object.
    """
    if not isinstance(values, dict):
        raise field_error(path, "must be an object.")
    return {name: value for name, value in values.items() if value is not None}


def get_typed(
    fields: Mapping[str, Any],
    name: str,
    expected_type: type[T],
    default: T | None = None,
    path: str = "",
) -> T:
    """Return a field after checking its type; without a default it is required.

    Args:
        fields: the object.
        name: the field.
        expected_type: exactly its type, except that an integer is a number, too.
        default: its value if it is missing.
        path: precedes the name in an error.

    Raises:
        ApiError: it is missing or has another type.
    """
    value: Any = fields.get(name, default)
    if expected_type is float and type(value) is int:
        value = float(value) if abs(value) < 2**53 else value
    if type(value) is not expected_type:
        raise field_error(f"{path}{name}", f"must be {TYPE_NAMES[expected_type]}.")
    checked: T = value
    return checked


def refuse_unknown(fields: Mapping[str, Any], known: Collection[str], path: str = "") -> None:
    """Refuse a field that is not known.

    Raises:
        ApiError: there is one; the first in order of the request is named.
    """
    for name in fields:
        if name not in known:
            raise unsupported_error(f"{path}{name}")


def check_neutral(fields: Mapping[str, Any], neutral: Mapping[str, Any], path: str = "") -> None:
    """Refuse fields with another value than the one that has no effect.

    Args:
        fields: the object.
        neutral: fields that are not supported, each with the only accepted value.
        path: precedes the name in an error.

    Raises:
        ApiError: a field has another value.
    """
    for name, value in neutral.items():
        sent = fields.get(name, value)
        if type(sent) is not type(value) or sent != value:
            raise unsupported_error(f"{path}{name}")


def unsupported_error(name: str, why: str = "is not supported.") -> ApiError:
    """Create the error for a field that cannot be served."""
    return field_error(one_line(name, 60), why, "unsupported_parameter")
