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
from chatlm.config.paths import expand_path
from chatlm.errors import ConfigError
from chatlm.plugin_host.type_hints import describe_hint, field_hints, matches_hint

T = TypeVar("T")


def settings_class(plugin: Any) -> type | None:
    """The plugin's `Settings`; None where it has none."""
    kind = getattr(plugin, "Settings", None)
    return kind if isinstance(kind, type) else None


def check_settings_class(plugin: Any) -> None:
    """See that the plugin's `Settings`, if it has any, is a frozen dataclass with good defaults.

    Raises:
        TypeError: it is not; the message says what to change.
    """
    if getattr(plugin, "Settings", None) is None:
        return
    kind = settings_class(plugin)
    if kind is None or not dataclasses.is_dataclass(kind):
        raise TypeError("Settings must be a class with @dataclass(frozen=True)")
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError("Settings must be frozen: @dataclass(frozen=True)")
    for field in dataclasses.fields(kind):
        if field.default is field.default_factory is dataclasses.MISSING:
            raise TypeError(f"Settings.{field.name} needs a default")
    defaults = kind()
    for name, hint in field_hints(kind).items():
        if not matches_hint(getattr(defaults, name), hint):
            raise TypeError(f"the default of Settings.{name} must be {describe_hint(hint)}")


def read_settings(name: str, kind: type[T], section: Mapping[str, Any]) -> T:
    """The settings that hold: the environment over the section over the defaults.

    Args:
        name: the plugin's.
        kind: its `Settings`.
        section: `[plugins.NAME]` of config.toml.

    Raises:
        ConfigError: a key is unknown or a value is wrong; the message names both.
    """
    values = {
        key: _validated(name, kind, key, value, "config.toml") for key, value in section.items()
    }
    for key in _setting_names(kind):
        variable = environment_variable(name, key)
        if text := os.environ.get(variable):
            values[key] = _validated(name, kind, key, parse_setting_text(kind, key, text), variable)
    try:
        return kind(**values)
    except Exception as error:  # the class's own checks
        raise ConfigError(
            f"plugins.{name}: {error}.", hint="See what is set: chatlm config edit"
        ) from error


def load_plugin_settings(name: str, kind: type[T]) -> T:
    """A plugin's settings where no hook gives them, such as in its commands. Raises as `read`."""
    return read_settings(name, kind, config.load().plugins.get(name, {}))


def list_settings(name: str, kind: type, section: Mapping[str, Any]) -> list[config.Setting]:
    """Every setting of a plugin with its value and where that comes from. Raises as `read`."""
    now: Any = read_settings(name, kind, section)
    listed = []
    for field in dataclasses.fields(kind):
        source = "config.toml" if field.name in section else "default"
        if os.environ.get(environment_variable(name, field.name)):
            source = f"environment {environment_variable(name, field.name)}"
        meaning = str(field.metadata.get("help", f"of the plugin {name}"))
        value = getattr(now, field.name)
        listed.append(config.Setting(f"plugins.{name}.{field.name}", value, source, meaning))
    return listed


def parse_setting(
    name: str,
    kind: type,
    key: str,
    text: str,
    section: Mapping[str, Any],
    source: str = "chatlm config set",
) -> Any:
    """A typed value as config.toml holds it, checked with those of the others that are right.

    Args:
        name: the plugin's.
        kind: its `Settings`.
        key: of the setting.
        text: as it was typed.
        section: `[plugins.NAME]` of config.toml.
        source: it was typed, for the message.

    Raises:
        ConfigError: as `read`.
    """
    _check_key(name, kind, key, source)
    value = parse_setting_text(kind, key, text)
    _validated(name, kind, key, value, source)
    read_settings(name, kind, {**_valid_settings(name, kind, section), key: value})
    return value


def save_setting(name: str, kind: type, key: str, text: str) -> None:
    """Write one setting into config.toml, all else in it stays; arguments as `checked_text`.

    Raises:
        ConfigError: as `read`, or the file cannot be read or written.
    """
    section = config.load().plugins.get(name, {})
    value = parse_setting(name, kind, key, text, section)
    toml_file.set_key(paths.config_file(), ["plugins", name, key], value)


def environment_variable(name: str, key: str) -> str:
    """The environment variable that overrides a setting: `CHATLM_NAME_KEY`."""
    return f"CHATLM_{name}_{key}".upper().replace("-", "_")


def parse_setting_text(kind: type, key: str, text: str) -> Any:
    """A typed value: as it stands where the setting may be a text, else as TOML has it."""
    hint = field_hints(kind).get(key)
    plain = matches_hint(_from_toml(text, hint), hint)
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        document = {}
    value = document["value"] if document.keys() == {"value"} and not plain else text
    is_list = typing.get_origin(hint) in (list, tuple)
    return [value] if is_list and not isinstance(value, list) else value


def _valid_settings(name: str, kind: type, section: Mapping[str, Any]) -> dict[str, Any]:
    """What can be read of a section: a mistake must not keep the next one from being mended."""
    right = {}
    for key, value in section.items():
        with suppress(ConfigError):
            _validated(name, kind, key, value, "config.toml")
            right[key] = value
    return right


def _setting_names(kind: type) -> list[str]:
    return list(field_hints(kind))


def _check_key(name: str, kind: type, key: str, source: str) -> None:
    hints = field_hints(kind)
    if key not in hints:
        near = get_close_matches(key, hints, 1)
        raise ConfigError(
            f"{source}: the plugin {name} has no setting {key!r}.",
            hint=f"Did you mean {near[0]}?" if near else f"It has: {', '.join(hints)}.",
        )


def _validated(name: str, kind: type, key: str, value: Any, source: str) -> Any:
    _check_key(name, kind, key, source)
    hints = field_hints(kind)
    converted = _from_toml(value, hints[key])
    if not matches_hint(converted, hints[key]):
        raise ConfigError(
            f"{source}: plugins.{name}.{key} must be {describe_hint(hints[key])}, not {value!r}.",
            hint=f"Change it: chatlm config set plugins.{name}.{key} VALUE",
        )
    return converted


def _from_toml(value: Any, hint: Any) -> Any:
    """A value of TOML as Python's type where TOML has none: tuples, paths, members of an Enum."""
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    if isinstance(value, str) and Path in (hint, *typing.get_args(hint)):
        return expand_path(value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return next((member for member in hint if member.value == value), value)
    return value


FORM_SOURCE = "here"
"""Where a typed value stands, for the messages that are taken apart again."""


@dataclass(frozen=True)
class SettingField:
    """One setting."""

    key: str
    help: str
    """What it does; may be empty."""
    expected: str
    """What it must be, such as `a whole number`."""
    choices: tuple[str, ...]
    """All it may be, where that can be told; empty for any text."""
    default: str
    configured: str | None
    """What config.toml says; None where it says nothing."""
    variable: str
    """The environment variable that goes before both; empty where none is set."""

    @property
    def effective(self) -> str:
        """What holds from the next start on."""
        if self.variable:
            return os.environ.get(self.variable, "")
        return self.default if self.configured is None else self.configured

    @property
    def source(self) -> str:
        """Where that comes from."""
        if self.variable:
            return "environment"
        return "default" if self.configured is None else "config.toml"


class SettingsForm:
    """The settings of one plugin, read and written in the config file.

    Args:
        plugin: its name.
        kind: its class `Settings`.
    """

    def __init__(self, plugin: str, kind: type) -> None:
        self.plugin = plugin
        self._kind = kind

    def fields(self) -> list[SettingField]:
        """Every setting as it is now, right or wrong.

        Raises:
            ConfigError: the config file cannot be read.
        """
        section, defaults = self._section(), self._kind()
        return [self._field(each, section, defaults) for each in dataclasses.fields(self._kind)]

    def field(self, key: str) -> SettingField:
        """One of them. Raises as `all`."""
        return next(field for field in self.fields() if field.key == key)

    def check(self, key: str, text: str) -> None:
        """See whether a text may be the setting's value, beside what the others say.

        Raises:
            ConfigError: it may not; the message says why.
        """
        if not text:
            return  # then the default holds
        try:
            parse_setting(self.plugin, self._kind, key, text, self._section(), FORM_SOURCE)
        except ConfigError as error:
            told = error.message
            for head in (f"{FORM_SOURCE}: plugins.{self.plugin}.", f"plugins.{self.plugin}: "):
                told = told.removeprefix(head)
            raise ConfigError(told) from error

    def save(self, key: str, text: str) -> SettingField:
        """Write a setting; an empty text takes it out of the file. Raises as `check`."""
        if text:
            self.check(key, text)
            save_setting(self.plugin, self._kind, key, text)
        else:
            config.unset(f"plugins.{self.plugin}.{key}")
        return self.field(key)

    def _section(self) -> Mapping[str, Any]:
        return config.load().plugins.get(self.plugin, {})

    def _field(
        self, field: dataclasses.Field[Any], section: Mapping[str, Any], defaults: Any
    ) -> SettingField:
        hint = field_hints(self._kind)[field.name]
        variable = environment_variable(self.plugin, field.name)
        return SettingField(
            field.name,
            str(field.metadata.get("help", "")),
            describe_hint(hint),
            tuple(allowed_values(hint)),
            format_setting(getattr(defaults, field.name)),
            format_setting(section[field.name]) if field.name in section else None,
            variable if os.environ.get(variable) else "",
        )


def allowed_values(hint: Any) -> Iterator[str]:
    """All values of a bool, a Literal or an Enum as they are typed; none for other types."""
    if hint is bool:
        yield from ("true", "false")
    elif typing.get_origin(hint) is Literal:
        yield from map(format_setting, typing.get_args(hint))
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        yield from map(format_setting, hint)


def format_setting(value: Any) -> str:
    """A value as it is typed."""
    if value is None:
        return ""
    if isinstance(value, enum.Enum):
        return format_setting(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
