"""The user's settings, from config.toml and environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlm.config import paths, toml_file
from chatlm.config.schema import CORE_KEYS, ENV_VARS, KEY_HELP, check_value, parse_value
from chatlm.errors import ConfigError
from chatlm.types.sampling import Sampling


@dataclass(frozen=True)
class Config:
    """All settings, each checked."""

    model: str = "smollm2-135m-instruct"
    system: str = ""
    device: str = "auto"
    dtype: str = "auto"
    quantize: str = "none"
    fast: str = "auto"
    context: int | None = None
    auto_compact: bool = False
    prompt_format: str = "auto"
    theme: str = "textual-dark"
    reduced_motion: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)
    """The user's key bindings, by command name."""
    sampling: Sampling = field(default_factory=Sampling)
    disabled_plugins: tuple[str, ...] = ()
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Each plugin's section `[plugins.NAME]`, unchecked."""
    safe_mode: bool = False
    """Load no plugins; set for one run, never in the file."""

    def settings(self) -> dict[str, Any]:
        """Return the value of each of `KEY_HELP`."""
        own = {key: getattr(self, key) for key in CORE_KEYS}
        return own | {f"sampling.{key}": value for key, value in self.sampling.settings().items()}


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


def load(path: Path | None = None, *, model: str | None = None) -> Config:
    """Load the settings: environment over file over defaults.

    Args:
        path: the file; None for the user's own. A missing file counts as empty.
        model: value of `--model`, which overrides everything; None if not given.

    Raises:
        ConfigError: the file is not TOML (with line and column), or a key or value in it, in
            the environment or in `model` is invalid.
    """
    path = path or paths.config_file()
    document = toml_file.read(path)
    values = _flatten_document(document, path) | _environment_values()
    if model is not None:
        values["model"] = check_value("model", model, "--model")
    own = {key: values[key] for key in CORE_KEYS if key in values}
    if "disabled_plugins" in own:
        own["disabled_plugins"] = tuple(own["disabled_plugins"])
    return Config(
        **own,
        keys=_section(values, "keys."),
        sampling=Sampling.from_dict(_section(values, "sampling.")),
        plugins=document.get("plugins", {}),
    )


load_config = load
"""Public name of `load`."""


def effective_settings(path: Path | None = None) -> list[Setting]:
    """List every setting with its value and source; raises like `load`."""
    path = path or paths.config_file()
    config = load(path)
    in_file = _flatten_document(toml_file.read(path), path)
    in_environment = _environment_values()
    values = config.settings()
    settings = []
    for key, meaning in KEY_HELP.items():
        source = "default"
        if key in in_environment:
            source = f"environment {ENV_VARS[key]}"
        elif key in in_file:
            source = "config.toml"
        settings.append(Setting(key, values[key], source, meaning))
    settings += [
        Setting(f"keys.{name}", value, "config.toml", "the key for it")
        for name, value in config.keys.items()
    ]
    for name, section in config.plugins.items():
        settings += [
            Setting(f"plugins.{name}.{key}", value, "config.toml", f"of the plugin {name}")
            for key, value in section.items()
        ]
    return settings


def set_value(key: str, text: str, path: Path | None = None) -> None:
    """Write one setting to the file; everything else in it stays, comments included.

    Args:
        key: one of `KEY_HELP`, `keys.COMMAND` or `plugins.NAME.KEY`.
        text: the value as typed; numbers and lists as in TOML.
        path: the file; None for the user's own.

    Raises:
        ConfigError: the key or value is invalid, or the file is not TOML or cannot be written.
    """
    value = check_value(key, parse_value(key, text), "chatlm config set")
    toml_file.set_key(path or paths.config_file(), key.split(".", 2), value)


def unset(key: str, path: Path | None = None) -> bool:
    """Remove one setting from the file; return whether it was there.

    Raises:
        ConfigError: the file is not TOML or cannot be written.
    """
    return toml_file.remove_key(path or paths.config_file(), key.split(".", 2))


def overriding_env_var(key: str) -> str:
    """Return the environment variable that overrides the file for this key; empty if none."""
    variable = ENV_VARS.get(key, "")
    return variable if os.environ.get(variable) else ""


def _flatten_document(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the document's settings by full key, checked, without plugins' sections."""
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key in ("sampling", "keys") and isinstance(value, dict):
            values |= {f"{key}.{name}": setting for name, setting in value.items()}
        elif key == "plugins" and isinstance(value, dict):
            for name, section in value.items():
                if not isinstance(section, dict):
                    raise ConfigError(
                        f"{path}: plugins.{name} must be a section, not {section!r}.",
                        hint=f"Write [plugins.{name}] and the plugin's settings below it.",
                    )
        elif key in ("sampling", "keys", "plugins"):
            raise ConfigError(f"{path}: {key} must be a section, not {value!r}.")
        else:
            values[key] = value
    return {key: check_value(key, value, str(path)) for key, value in values.items()}


def _section(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)
    }


def _environment_values() -> dict[str, Any]:
    return {
        key: check_value(key, os.environ[variable], f"environment {variable}")
        for key, variable in ENV_VARS.items()
        if os.environ.get(variable)
    }
