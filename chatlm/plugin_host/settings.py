"""A plugin's Settings: read, validate, write; form fields."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import tomllib
import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

from chatlm.config import config, paths, toml_file
from chatlm.config.paths import expanded
from chatlm.errors import ConfigError
from chatlm.plugin_host.type_hints import describe, fits, hints_of

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
    toml_file.change(paths.config_file(), ["plugins", name, key], value)


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


FORM = "here"
"""Where a typed value stands, for the messages that are taken apart again."""


@dataclass(frozen=True)
class Field:
    """One setting."""

    key: str
    help: str
    """What it does; may be empty."""
    wanted: str
    """What it must be, such as `a whole number`."""
    choices: tuple[str, ...]
    """All it may be, where that can be told; empty for any text."""
    default: str
    said: str | None
    """What config.toml says; None where it says nothing."""
    variable: str
    """The environment variable that goes before both; empty where none is set."""

    @property
    def held(self) -> str:
        """What holds from the next start on."""
        if self.variable:
            return os.environ.get(self.variable, "")
        return self.default if self.said is None else self.said

    @property
    def source(self) -> str:
        """Where that comes from."""
        if self.variable:
            return "environment"
        return "default" if self.said is None else "config.toml"


class Fields:
    """The settings of one plugin, read and written in the config file.

    Args:
        plugin: its name.
        kind: its class `Settings`.
    """

    def __init__(self, plugin: str, kind: type) -> None:
        self.plugin = plugin
        self._kind = kind

    def all(self) -> list[Field]:
        """Every setting as it is now, right or wrong.

        Raises:
            ConfigError: the config file cannot be read.
        """
        section, defaults = self._section(), self._kind()
        return [self._field(each, section, defaults) for each in dataclasses.fields(self._kind)]

    def one(self, key: str) -> Field:
        """One of them. Raises as `all`."""
        return next(field for field in self.all() if field.key == key)

    def check(self, key: str, text: str) -> None:
        """See whether a text may be the setting's value, beside what the others say.

        Raises:
            ConfigError: it may not; the message says why.
        """
        if not text:
            return  # then the default holds
        try:
            checked_text(self.plugin, self._kind, key, text, self._section(), FORM)
        except ConfigError as error:
            told = error.message
            for head in (f"{FORM}: plugins.{self.plugin}.", f"plugins.{self.plugin}: "):
                told = told.removeprefix(head)
            raise ConfigError(told) from error

    def save(self, key: str, text: str) -> Field:
        """Write a setting; an empty text takes it out of the file. Raises as `check`."""
        if text:
            self.check(key, text)
            save_setting(self.plugin, self._kind, key, text)
        else:
            config.unset(f"plugins.{self.plugin}.{key}")
        return self.one(key)

    def _section(self) -> Mapping[str, Any]:
        return config.load().plugins.get(self.plugin, {})

    def _field(
        self, field: dataclasses.Field[Any], section: Mapping[str, Any], defaults: Any
    ) -> Field:
        hint = hints_of(self._kind)[field.name]
        variable = variable_of(self.plugin, field.name)
        return Field(
            field.name,
            str(field.metadata.get("help", "")),
            describe(hint),
            tuple(choices(hint)),
            written(getattr(defaults, field.name)),
            written(section[field.name]) if field.name in section else None,
            variable if os.environ.get(variable) else "",
        )


def choices(hint: Any) -> Iterator[str]:
    """All values of a bool, a Literal or an Enum as they are typed; none for other types."""
    if hint is bool:
        yield from ("true", "false")
    elif typing.get_origin(hint) is Literal:
        yield from map(written, typing.get_args(hint))
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        yield from map(written, hint)


def written(value: Any) -> str:
    """A value as it is typed."""
    if value is None:
        return ""
    if isinstance(value, enum.Enum):
        return written(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
