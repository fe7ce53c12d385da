"""Run-time checks of values against type hints, including fields and items."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import math
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal, Union

_SURROGATE = re.compile("[\ud800-\udfff]")


_DESCRIPTIONS: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    type(None): "nothing",
}


def matches_hint(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; texts must be valid Unicode, numbers finite.

    Args:
        value: anything.
        hint: a class (a dataclass is looked into), `Literal`, a union, or a list, tuple, sequence,
            mapping or callable of such.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return any(matches_hint(value, argument) for argument in arguments)
    if origin is tuple and arguments[-1:] != (...,):
        return isinstance(value, tuple) and _all_match(value, arguments)
    if origin in (tuple, list, collections.abc.Sequence):
        kind = (list, tuple) if origin is collections.abc.Sequence else origin
        return isinstance(value, kind) and all(matches_hint(item, arguments[0]) for item in value)
    if origin in (dict, collections.abc.Mapping):
        return isinstance(value, collections.abc.Mapping) and all(
            matches_hint(key, arguments[0]) and matches_hint(item, arguments[1])
            for key, item in value.items()
        )
    if origin is collections.abc.Callable:
        return callable(value)
    return _matches_class(value, hint)


def describe_hint(hint: Any) -> str:
    """Describe the type in words, such as `a whole number`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return _join_with_or([str(choice) for choice in arguments])
    if origin in (Union, types.UnionType):
        return _join_with_or([describe_hint(argument) for argument in arguments])
    if origin in (tuple, list, collections.abc.Sequence):
        return f"a list of {describe_hint(arguments[0]).removeprefix('a ')}s"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _join_with_or([str(member.value) for member in hint])
    return _DESCRIPTIONS.get(hint, getattr(hint, "__name__", str(hint)))


@functools.cache
def field_hints(kind: type) -> dict[str, Any]:
    """The resolved types of a dataclass's fields, by name, in their order."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _matches_class(value: Any, kind: Any) -> bool:
    if kind is float:
        return _is_finite(value)
    if kind is int:
        return isinstance(value, int) and type(value) is not bool
    if kind is str:
        return isinstance(value, str) and (value.isascii() or not _SURROGATE.search(value))
    if not isinstance(value, kind):
        return False
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return all(
            matches_hint(getattr(value, name), hint) for name, hint in field_hints(kind).items()
        )
    return True


def _is_finite(value: Any) -> bool:
    if not isinstance(value, int | float) or type(value) is bool:
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _all_match(values: tuple[Any, ...], hints: tuple[Any, ...]) -> bool:
    return len(values) == len(hints) and all(map(matches_hint, values, hints))


def _join_with_or(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
