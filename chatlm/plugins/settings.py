"""A plugin's own settings: a dataclass says what there is, config.toml and the environment what."""

from __future__ import annotations

import dataclasses
import enum
import os
import tomllib
import typing
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from chatlm import config, paths, tomlfile
from chatlm.errors import ConfigError
from chatlm.files import expanded
from chatlm.plugins.values import describe, fits, hints_of

T = TypeVar("T")


def class_of(plugin: Any) -> type | None:
    """The plugin's `Settings`; None where it has none."""
    kind = getattr(plugin, "Settings", None)
    return kind if isinstance(kind, type) else None


def check_schema(plugin: Any) -> None:
    """See that the plugin's `Settings`, if it has any, is a frozen dataclass with good defaults.

    Raises:
        TypeError: it is not; the message says what to change.
    """
    if getattr(plugin, "Settings", None) is None:
        return
    kind = class_of(plugin)
    if kind is None or not dataclasses.is_dataclass(kind):
        raise TypeError("Settings must be a class with @dataclass(frozen=True)")
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError("Settings must be frozen: @dataclass(frozen=True)")
    for field in dataclasses.fields(kind):
        if field.default is field.default_factory is dataclasses.MISSING:
            raise TypeError(f"Settings.{field.name} needs a default")
    defaults = kind()
    for name, hint in hints_of(kind).items():
        if not fits(getattr(defaults, name), hint):
            raise TypeError(f"the default of Settings.{name} must be {describe(hint)}")


def read(name: str, kind: type[T], section: Mapping[str, Any]) -> T:
    """The settings that hold: the environment over the section over the defaults.

    Args:
        name: the plugin's.
        kind: its `Settings`.
        section: `[plugins.NAME]` of config.toml.

    Raises:
        ConfigError: a key is unknown or a value is wrong; the message names both.
    """
    values = {
        key: _checked(name, kind, key, value, "config.toml") for key, value in section.items()
    }
    for key in _keys(kind):
        variable = variable_of(name, key)
        if text := os.environ.get(variable):
            values[key] = _checked(name, kind, key, from_text(kind, key, text), variable)
    try:
        return kind(**values)
    except Exception as error:  # the class's own checks
        raise ConfigError(
            f"plugins.{name}: {error}.", hint="See what is set: chatlm config edit"
        ) from error


def own_settings(name: str, kind: type[T]) -> T:
    """A plugin's settings where no hook gives them, such as in its commands. Raises as `read`."""
    return read(name, kind, config.load().plugins.get(name, {}))


def rows(name: str, kind: type, section: Mapping[str, Any]) -> list[config.Setting]:
    """Every setting of a plugin with its value and where that comes from. Raises as `read`."""
    now: Any = read(name, kind, section)
    listed = []
    for field in dataclasses.fields(kind):
        source = "config.toml" if field.name in section else "default"
        if os.environ.get(variable_of(name, field.name)):
            source = f"environment {variable_of(name, field.name)}"
        meaning = str(field.metadata.get("help", f"of the plugin {name}"))
        value = getattr(now, field.name)
        listed.append(config.Setting(f"plugins.{name}.{field.name}", value, source, meaning))
    return listed


def checked_text(
    name: str,
    kind: type,
    key: str,
    text: str,
    section: Mapping[str, Any],
    where: str = "chatlm config set",
) -> Any:
    """A typed value as config.toml holds it, checked with those of the others that are right.

    Args:
        name: the plugin's.
        kind: its `Settings`.
        key: of the setting.
        text: as it was typed.
        section: `[plugins.NAME]` of config.toml.
        where: it was typed, for the message.

    Raises:
        ConfigError: as `read`.
    """
    _check_key(name, kind, key, where)
    value = from_text(kind, key, text)
    _checked(name, kind, key, value, where)
    read(name, kind, {**_right(name, kind, section), key: value})
    return value


def save_setting(name: str, kind: type, key: str, text: str) -> None:
    """Write one setting into config.toml, all else in it stays; arguments as `checked_text`.

    Raises:
        ConfigError: as `read`, or the file cannot be read or written.
    """
    section = config.load().plugins.get(name, {})
    value = checked_text(name, kind, key, text, section)
    tomlfile.change(paths.config_file(), ["plugins", name, key], value)


def variable_of(name: str, key: str) -> str:
    """The environment variable that overrides a setting: `CHATLM_NAME_KEY`."""
    return f"CHATLM_{name}_{key}".upper().replace("-", "_")


def from_text(kind: type, key: str, text: str) -> Any:
    """A typed value: as it stands where the setting may be a text, else as TOML has it."""
    hint = hints_of(kind).get(key)
    plain = fits(_converted(text, hint), hint)
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        document = {}
    value = document["value"] if document.keys() == {"value"} and not plain else text
    is_list = typing.get_origin(hint) in (list, tuple)
    return [value] if is_list and not isinstance(value, list) else value


def _right(name: str, kind: type, section: Mapping[str, Any]) -> dict[str, Any]:
    """What can be read of a section: a mistake must not keep the next one from being mended."""
    right = {}
    for key, value in section.items():
        with suppress(ConfigError):
            _checked(name, kind, key, value, "config.toml")
            right[key] = value
    return right


def _keys(kind: type) -> list[str]:
    return list(hints_of(kind))


def _check_key(name: str, kind: type, key: str, where: str) -> None:
    hints = hints_of(kind)
    if key not in hints:
        near = get_close_matches(key, hints, 1)
        raise ConfigError(
            f"{where}: the plugin {name} has no setting {key!r}.",
            hint=f"Did you mean {near[0]}?" if near else f"It has: {', '.join(hints)}.",
        )


def _checked(name: str, kind: type, key: str, value: Any, where: str) -> Any:
    _check_key(name, kind, key, where)
    hints = hints_of(kind)
    converted = _converted(value, hints[key])
    if not fits(converted, hints[key]):
        raise ConfigError(
            f"{where}: plugins.{name}.{key} must be {describe(hints[key])}, not {value!r}.",
            hint=f"Change it: chatlm config set plugins.{name}.{key} VALUE",
        )
    return converted


def _converted(value: Any, hint: Any) -> Any:
    """A value of TOML as Python's type where TOML has none: tuples, paths, members of an Enum."""
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    if isinstance(value, str) and Path in (hint, *typing.get_args(hint)):
        return expanded(value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return next((member for member in hint if member.value == value), value)
    return value
