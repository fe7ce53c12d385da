"""A plugin's settings as a form shows them, in texts; knows no widget and loads no plugin."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chatlm import config
from chatlm.errors import ConfigError
from chatlm.plugins import settings
from chatlm.plugins.values import describe, hints_of

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
            settings.checked_text(self.plugin, self._kind, key, text, self._section(), FORM)
        except ConfigError as error:
            told = error.message
            for head in (f"{FORM}: plugins.{self.plugin}.", f"plugins.{self.plugin}: "):
                told = told.removeprefix(head)
            raise ConfigError(told) from error

    def save(self, key: str, text: str) -> Field:
        """Write a setting; an empty text takes it out of the file. Raises as `check`."""
        if text:
            self.check(key, text)
            settings.save_setting(self.plugin, self._kind, key, text)
        else:
            config.unset(f"plugins.{self.plugin}.{key}")
        return self.one(key)

    def _section(self) -> Mapping[str, Any]:
        return config.load().plugins.get(self.plugin, {})

    def _field(
        self, field: dataclasses.Field[Any], section: Mapping[str, Any], defaults: Any
    ) -> Field:
        hint = hints_of(self._kind)[field.name]
        variable = settings.variable_of(self.plugin, field.name)
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
