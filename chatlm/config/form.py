"""A section of the config file as a form: fields with texts that are checked and saved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatlm.config import paths, toml_file
from chatlm.config.schema import Section, allowed_values, format_setting, from_toml, parse_text
from chatlm.errors import ConfigError


@dataclass(frozen=True)
class SettingField:
    """One setting with its current values, as they are typed."""

    key: str
    """The setting's name within its section."""
    help: str
    """What it does; may be empty."""
    expected: str
    """A valid value in words, such as `a whole number`."""
    choices: tuple[str, ...]
    """All valid values if there are few; else empty."""
    default: str
    configured: str | None
    """The value in config.toml; None if it is not set."""
    variable: str
    """The environment variable that overrides the file now; empty if none is set."""

    @property
    def effective(self) -> str:
        """The value in effect from the next start on."""
        if self.variable:
            return os.environ.get(self.variable, "")
        return self.default if self.configured is None else self.configured

    @property
    def source(self) -> str:
        """Where the effective value comes from."""
        if self.variable:
            return "environment"
        return "default" if self.configured is None else "config.toml"


class SettingsForm:
    """Reads and writes a section of the user's config file.

    Args:
        section: the section.
    """

    def __init__(self, section: Section[Any]) -> None:
        self.section = section

    def fields(self) -> list[SettingField]:
        """Return every setting as it is now, valid or not.

        Raises:
            ConfigError: the config file cannot be read.
        """
        stored = self._stored()
        return [self._field(name, stored) for name in self.section.specs]

    def check(self, name: str, text: str) -> None:
        """Check a typed value beside the other settings; an empty text stands for the default.

        Raises:
            ConfigError: it is invalid; the message names only the setting.
        """
        if not text:
            return
        spec = self.section.specs[name]
        value = parse_text(spec, text)
        if problem := spec.problem(from_toml(spec, value)):
            raise ConfigError(f"{name} {problem}.")
        if broken := self.section.broken_rule(name, value, self._stored()):
            raise ConfigError(f"{broken}.")

    def save(self, name: str, text: str) -> SettingField:
        """Write a setting; an empty text removes it from the file. Raises like `check`."""
        file = paths.config_file()
        if text:
            self.check(name, text)
            self.section.save(file, name, text)
        else:
            toml_file.remove_key(file, (*self.section.path, name))
        return self._field(name, self._stored())

    def _stored(self) -> Mapping[str, Any]:
        return self.section.stored(paths.config_file())

    def _field(self, name: str, stored: Mapping[str, Any]) -> SettingField:
        spec = self.section.specs[name]
        return SettingField(
            key=name,
            help=spec.help,
            expected=spec.expected,
            choices=allowed_values(spec),
            default=format_setting(spec.default),
            configured=format_setting(stored[name]) if name in stored else None,
            variable=self.section.set_variable(name),
        )
