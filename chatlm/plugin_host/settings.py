"""Settings that a plugin declares as a dataclass `Settings`."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from chatlm.config import config, paths
from chatlm.config.schema import Section
from chatlm.types.settings import setting_specs

T = TypeVar("T")


def settings_class(plugin: Any) -> type | None:
    """Return the plugin's `Settings`; None if it has none."""
    kind = getattr(plugin, "Settings", None)
    return kind if isinstance(kind, type) else None


def check_settings_class(plugin: Any) -> None:
    """Check that the plugin's `Settings`, if any, is a frozen dataclass with valid defaults.

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
    for name, spec in setting_specs(kind).items():
        if spec.problem(getattr(defaults, name)):
            raise TypeError(f"the default of Settings.{name} must be {spec.expected}")


def plugin_section(name: str, kind: type[T]) -> Section[T]:
    """Return the section `[plugins.NAME]`, which `CHATLM_NAME_KEY` overrides.

    Args:
        name: the plugin's name.
        kind: its `Settings`.
    """
    return Section(kind, ("plugins", name), variable_prefix=f"CHATLM_{name}")


def load_plugin_settings(name: str, kind: type[T]) -> T:
    """Return a plugin's settings where no hook gets them, such as in its commands.

    Args:
        name: the plugin's name.
        kind: its `Settings`.

    Raises:
        ConfigError: the config file is invalid, or a setting in it or in the environment.
    """
    section = config.load().plugins.get(name, {})
    return plugin_section(name, kind).read(section, str(paths.config_file()))


def save_setting(name: str, kind: type, key: str, text: str) -> None:
    """Write one setting of a plugin to config.toml; everything else in it stays.

    Args:
        name: the plugin's name.
        kind: its `Settings`.
        key: the setting.
        text: the value as typed.

    Raises:
        ConfigError: the setting is unknown, its value is invalid, or the file cannot be read or
            written.
    """
    plugin_section(name, kind).save(paths.config_file(), key, text)
