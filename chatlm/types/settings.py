"""Settings as fields of frozen dataclasses: type, range and help of each."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chatlm.text import one_line
from chatlm.types.type_hints import describe_hint, field_hints, matches_hint

MAX_SHOWN = 80
"""Characters of an invalid value that an error shows."""


def setting(
    default: Any,
    help: str,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    accepts: Callable[[Any], bool] | None = None,
    convert: Callable[[Any], Any] | None = None,
    expected: str = "",
    variable: str = "",
) -> Any:
    """Declare a setting as a field of a dataclass.

    Args:
        default: the default.
        help: what the setting does, in one line.
        minimum: the lowest valid number.
        maximum: the highest valid number.
        accepts: checks what type and range cannot express.
        convert: converts a value of the config file; None to convert it by the type.
        expected: a valid value in words; empty to describe the type and the range.
        variable: the environment variable that overrides the config file.
    """
    limits = {
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "accepts": accepts,
        "convert": convert,
        "expected": expected,
        "variable": variable,
    }
    return dataclasses.field(default=default, metadata=limits)


@dataclass(frozen=True)
class SettingSpec:
    """The declaration of one setting."""

    name: str
    hint: Any
    """The type."""
    default: Any
    help: str = ""
    minimum: float = -math.inf
    maximum: float = math.inf
    accepts: Callable[[Any], bool] | None = None
    convert: Callable[[Any], Any] | None = None
    expected: str = ""
    """A valid value in words, such as `a whole number`."""
    variable: str = ""
    """The environment variable that overrides the config file; may be empty."""

    @property
    def is_integer(self) -> bool:
        """Whether the setting is a whole number."""
        return _without_none(self.hint) is int

    def problem(self, value: Any) -> str:
        """Return what is wrong with a value of the setting's type, such as `must be a text,
        not 3`; empty if it is valid.
        """
        if matches_hint(value, self.hint) and (value is None or self._is_within_limits(value)):
            return ""
        shown = list(value) if isinstance(value, tuple) else value
        return f"must be {self.expected}, not {one_line(format_number(shown), MAX_SHOWN)}"

    def _is_within_limits(self, value: Any) -> bool:
        return (
            (self.minimum == -math.inf or self.minimum <= value)
            and (self.maximum == math.inf or value <= self.maximum)
            and (self.accepts is None or self.accepts(value))
        )


def setting_specs(kind: type) -> dict[str, SettingSpec]:
    """Return the settings that a dataclass declares, by field name.

    The metadata of a field may have the keys that `setting` sets.
    """
    return _cached_specs(kind)


@functools.cache
def _cached_specs(kind: type) -> dict[str, SettingSpec]:
    hints = field_hints(kind)
    return {field.name: _spec(field, hints[field.name]) for field in dataclasses.fields(kind)}


def _spec(field: dataclasses.Field[Any], hint: Any) -> SettingSpec:
    metadata = field.metadata
    minimum, maximum = metadata.get("minimum", -math.inf), metadata.get("maximum", math.inf)
    factory = field.default_factory
    return SettingSpec(
        name=field.name,
        hint=hint,
        default=field.default if factory is dataclasses.MISSING else factory(),
        help=str(metadata.get("help", "")),
        minimum=minimum,
        maximum=maximum,
        accepts=metadata.get("accepts"),
        convert=metadata.get("convert"),
        expected=metadata.get("expected") or _describe(hint, minimum, maximum),
        variable=metadata.get("variable", ""),
    )


def _describe(hint: Any, minimum: float, maximum: float) -> str:
    if (minimum, maximum) == (-math.inf, math.inf):
        return describe_hint(hint)
    described = describe_hint(_without_none(hint))
    if maximum == math.inf:
        return f"{described} of at least {format_number(minimum)}"
    if minimum == -math.inf:
        return f"{described} of at most {format_number(maximum)}"
    return f"{described} from {format_number(minimum)} to {format_number(maximum)}"


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    others = [each for each in typing.get_args(hint) if each is not type(None)]
    return others[0] if len(others) == 1 else hint


def format_number(value: object) -> str:
    """Format a number, such as 0.5, 9 or 1,000,000; anything else by `repr`."""
    if type(value) is float:
        return f"{value:.15g}"
    if type(value) is int:
        try:
            return f"{value:,}"
        except ValueError:  # Python writes no number of so many digits
            return "a number of thousands of digits"
    return repr(value)
