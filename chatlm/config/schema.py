"""Sections of config.toml, each declared by a dataclass: the core's and the plugins'."""

from __future__ import annotations

import enum
import json
import os
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from chatlm.config import toml_file
from chatlm.config.paths import expand_path
from chatlm.config.renamed import OldSetting
from chatlm.errors import ConfigError
from chatlm.types.settings import SettingSpec, setting_specs
from chatlm.types.type_hints import matches_hint

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """The effective value of one setting."""

    key: str
    value: Any
    source: str
    """`default`, `config.toml`, or `environment` and the variable's name."""
    help: str

    def to_dict(self) -> dict[str, Any]:
        """Convert to a dictionary; `value` is not converted."""
        return {
            "key": self.key,
            "value": self.value,
            "source": self.source,
            "help": self.help,
        }


class Section(Generic[T]):
    """The settings in one section of the config file.

    Args:
        kind: the dataclass that declares them; see `setting_specs`.
        path: the section's place in the file, such as `("plugins", "rag")`; empty for the top.
        variable_prefix: prefix of the environment variables of settings that name none; empty
            for no such variables.
        old_settings: of earlier versions, whose environment variables are still read.
    """

    def __init__(
        self,
        kind: type[T],
        path: Sequence[str] = (),
        variable_prefix: str = "",
        old_settings: Sequence[OldSetting] = (),
    ) -> None:
        self.kind = kind
        self.path = tuple(path)
        self.specs = setting_specs(kind)
        self._variable_prefix = variable_prefix
        self._old_settings = old_settings

    def key(self, name: str) -> str:
        """Return a setting's full key, such as `plugins.rag.index`."""
        return ".".join((*self.path, name))

    def keys(self) -> list[str]:
        """Return the full keys of all settings."""
        return [self.key(name) for name in self.specs]

    def variable(self, name: str) -> str:
        """Return the environment variable that overrides a setting; empty if there is none."""
        if (spec := self.specs.get(name)) and spec.variable:
            return spec.variable
        if not self._variable_prefix:
            return ""
        return f"{self._variable_prefix}_{name}".upper().replace("-", "_")

    def set_variable(self, name: str) -> str:
        """Return the variable that overrides a setting now; empty if it is not set."""
        for variable in (self.variable(name), *self._old_variables(name)):
            if variable and os.environ.get(variable):
                return variable
        return ""

    def _old_variables(self, name: str) -> Iterator[str]:
        """Yield the old environment variables whose values now set a setting."""
        for old in self._old_settings:
            if name in old.new_values.get(os.environ.get(old.variable, ""), {}):
                yield old.variable

    def check(self, name: str, value: Any, source: str) -> Any:
        """Validate a value of TOML and convert it to the setting's type.

        Args:
            name: the setting.
            value: the value.
            source: the file or variable it comes from, for the error message.

        Raises:
            ConfigError: the section has no such setting, or the value is invalid.
        """
        spec = self._spec(name, source)
        converted = from_toml(spec, value)
        if problem := spec.problem(converted):
            key = self.key(name)
            hints = [f"{key}: {spec.help.rstrip('.')}."] if spec.help else []
            if source.endswith(".toml"):
                hints.append(f"Change it: chatlm config set {key} VALUE")
            raise ConfigError(f"{source}: {key} {problem}.", hint=" ".join(hints))
        return converted

    def values(self, section: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Return the settings that are set, the environment over the section; raises like
        `check`.
        """
        values = {name: self.check(name, value, source) for name, value in section.items()}
        return values | self.environment()

    def environment(self) -> dict[str, Any]:
        """Return the settings that are set by environment variables; raises like `check`."""
        values: dict[str, Any] = {}
        for old in self._old_settings:
            if text := os.environ.get(old.variable):
                values = {**old.translate(text, f"environment {old.variable}"), **values}
        return values | {
            name: self.check(
                name, parse_text(spec, os.environ[variable]), f"environment {variable}"
            )
            for name, spec in self.specs.items()
            if (variable := self.variable(name)) and os.environ.get(variable)
        }

    def read(self, section: Mapping[str, Any], source: str) -> T:
        """Return all settings: the environment over the section over the defaults.

        Raises:
            ConfigError: a key is unknown or a value is invalid.
        """
        try:
            return self.kind(**self.values(section, source))
        except ConfigError:
            raise
        except Exception as error:  # the class's own checks
            raise self._rule_error(str(error), source) from error

    def effective(self, section: Mapping[str, Any], source: str) -> list[Setting]:
        """Return every setting with its value and where that comes from; raises like `read`."""
        now = self.read(section, source)
        listed = []
        for name, spec in self.specs.items():
            origin = "config.toml" if name in section else "default"
            if variable := self.set_variable(name):
                origin = f"environment {variable}"
            meaning = spec.help or f"of the plugin {self.path[-1]}"
            listed.append(Setting(self.key(name), getattr(now, name), origin, meaning))
        return listed

    def parse(
        self, name: str, text: str, section: Mapping[str, Any], source: str = "chatlm config set"
    ) -> Any:
        """Parse a typed value, validate it and return it as the file has it.

        Args:
            name: the setting.
            text: the value as typed; see `parse_text`.
            section: the other settings. Invalid ones are ignored, so that one mistake does not
                keep another from being corrected.
            source: where the text was typed, for the error message.

        Raises:
            ConfigError: the section has no such setting, the value is invalid, or it contradicts
                another setting.
        """
        value = parse_text(self._spec(name, source), text)
        self.check(name, value, source)
        if broken := self.broken_rule(name, value, section):
            raise self._rule_error(broken, source)
        return value

    def broken_rule(self, name: str, value: Any, section: Mapping[str, Any]) -> str:
        """Return why the dataclass refuses a valid value beside the other settings, or ""."""
        values: dict[str, Any] = {}
        for other, configured in section.items():
            with suppress(ConfigError):
                values[other] = self.check(other, configured, "")
        values |= self.environment() | {name: from_toml(self.specs[name], value)}
        try:
            self.kind(**values)
        except Exception as error:  # the class's own checks
            return str(error) or type(error).__name__
        return ""

    def save(self, file: Path, name: str, text: str) -> None:
        """Write one setting to the file; everything else in it stays, comments included.

        Raises:
            ConfigError: as `parse`, or the file cannot be read or written.
        """
        value = self.parse(name, text, self.stored(file))
        toml_file.set_key(file, (*self.path, name), value)

    def stored(self, file: Path) -> Mapping[str, Any]:
        """Return the section as it is in the file, unchecked.

        Raises:
            ConfigError: the file cannot be read.
        """
        section: Any = toml_file.read(file)
        for part in self.path:
            section = section.get(part, {}) if isinstance(section, dict) else {}
        return section if isinstance(section, dict) else {}

    def _rule_error(self, broken: str, source: str) -> ConfigError:
        return ConfigError(
            f"{source}: {'.'.join(self.path)}: {broken}.",
            hint="Check the file: chatlm config edit",
        )

    def _spec(self, name: str, source: str) -> SettingSpec:
        if name not in self.specs:
            raise unknown_setting(self.key(name), self.keys(), source)
        return self.specs[name]


def unknown_setting(key: str, known: Iterable[str], source: str) -> ConfigError:
    """Return the error for a key that does not exist, which suggests the nearest known one."""
    typed = key.rpartition(".")[2]
    names = {each.rpartition(".")[2]: each for each in known}
    near = [name for name in names if typed and name.startswith(typed)]
    near += get_close_matches(typed, names, 1)
    hint = f"Did you mean {names[near[0]]}?" if near else "See all settings: chatlm config show"
    return ConfigError(f"{source}: there is no setting {key!r}.", hint=hint)


def from_toml(spec: SettingSpec, value: Any) -> Any:
    """Convert a TOML value to types that TOML lacks: tuples, paths, members of an Enum."""
    hint = spec.hint
    if spec.convert is not None:
        return spec.convert(value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    if isinstance(value, str) and Path in (hint, *typing.get_args(hint)):
        return expand_path(value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return next((member for member in hint if member.value == value), value)
    return value


def parse_text(spec: SettingSpec, text: str) -> Any:
    """Parse a typed value: as it is where the setting may be a text, else as TOML.

    A single item stands for a list of one. The value may be invalid.
    """
    is_list = typing.get_origin(spec.hint) in (list, tuple)
    if not is_list and matches_hint(from_toml(spec, text), spec.hint):
        return text
    value = parse_toml(text)
    if is_list and not isinstance(value, list):
        return [text if typing.get_args(spec.hint)[0] is str else value]
    return value


def parse_toml(text: str) -> Any:
    """Parse a typed value as TOML; what is not TOML is a text."""
    try:
        document = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return document["value"] if document.keys() == {"value"} else text


def allowed_values(spec: SettingSpec) -> tuple[str, ...]:
    """Return all values of a bool, a Literal or an Enum as they are typed; else none."""
    return tuple(_allowed(spec.hint))


def _allowed(hint: Any) -> Iterator[str]:
    if hint is bool:
        yield from ("true", "false")
    elif typing.get_origin(hint) is Literal:
        yield from map(format_setting, typing.get_args(hint))
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        yield from map(format_setting, hint)


def format_setting(value: Any) -> str:
    """Format a value as it is typed."""
    if value is None:
        return ""
    if isinstance(value, enum.Enum):
        return format_setting(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
