"""The person's settings, from config.toml and the environment; it knows no model and no screen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlm.config import paths, toml_file
from chatlm.config.schema import ENV_VARS, KEY_HELP, check_value, parse_value
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
    prompt_format: str = "auto"
    theme: str = "textual-dark"
    reduced_motion: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)
    """Keys the person chose, by the name of what they do."""
    sampling: Sampling = field(default_factory=Sampling)
    disabled_plugins: tuple[str, ...] = ()
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Each plugin's own section, `[plugins.NAME]`, as it stands in the file."""
    safe_mode: bool = False
    """Whether no plugin is loaded; said for one run, never in the file."""

    def settings(self) -> dict[str, Any]:
        """The value of each of `KEYS`."""
        return {
            "model": self.model,
            "system": self.system,
            "device": self.device,
            "dtype": self.dtype,
            "quantize": self.quantize,
            "fast": self.fast,
            "context": self.context,
            "prompt_format": self.prompt_format,
            "theme": self.theme,
            "reduced_motion": self.reduced_motion,
            "disabled_plugins": self.disabled_plugins,
            **{f"sampling.{key}": value for key, value in self.sampling.settings().items()},
        }


@dataclass(frozen=True)
class Setting:
    """One setting as it holds now."""

    key: str
    value: Any
    source: str
    """`default`, `config.toml`, or `environment` and the variable's name."""
    help: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values, but for `value`, which is as the settings have it."""
        return {
            "key": self.key,
            "value": self.value,
            "source": self.source,
            "help": self.help,
        }


def load(path: Path | None = None, *, model: str | None = None) -> Config:
    """The settings that hold now: the environment over the file over the defaults.

    Args:
        path: the file; None takes the person's own. One that is absent is empty.
        model: what `--model` says, which goes before all others; None says nothing.

    Raises:
        ConfigError: the file is not TOML (line and column are named), or a key or value in it, in
            the environment or in `model` is wrong.
    """
    path = path or paths.config_file()
    document = toml_file.read(path)
    said = _flatten_document(document, path) | _environment_values()
    if model is not None:
        said["model"] = check_value("model", model, "--model")
    return Config(
        model=said.get("model", Config.model),
        system=said.get("system", Config.system),
        device=said.get("device", Config.device),
        dtype=said.get("dtype", Config.dtype),
        quantize=said.get("quantize", Config.quantize),
        fast=said.get("fast", Config.fast),
        context=said.get("context", Config.context),
        prompt_format=said.get("prompt_format", Config.prompt_format),
        theme=said.get("theme", Config.theme),
        reduced_motion=said.get("reduced_motion", Config.reduced_motion),
        disabled_plugins=tuple(said.get("disabled_plugins", ())),
        keys=_section(said, "keys."),
        sampling=Sampling.from_dict(_section(said, "sampling.")),
        plugins=document.get("plugins", {}),
    )


load_config = load
"""`load`, by its public name."""


def effective_settings(path: Path | None = None) -> list[Setting]:
    """Every setting, its value and where the value comes from; errors as `load`."""
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
    """Write one setting into the file; all else in it, comments too, stays.

    Args:
        key: one of `KEYS`, `keys.COMMAND` or `plugins.NAME.KEY`.
        text: the value as typed; numbers and lists as in TOML.
        path: the file; None takes the person's own.

    Raises:
        ConfigError: the key or value is wrong, or the file is not TOML or cannot be written.
    """
    value = check_value(key, parse_value(key, text), "chatlm config set")
    toml_file.set_key(path or paths.config_file(), key.split(".", 2), value)


def unset(key: str, path: Path | None = None) -> bool:
    """Take one setting out of the file; returns whether it was there.

    Raises:
        ConfigError: the file is not TOML or cannot be written.
    """
    return toml_file.remove_key(path or paths.config_file(), key.split(".", 2))


def overriding_env_var(key: str) -> str:
    """The environment variable that now wins over the file for this key; empty if none does."""
    variable = ENV_VARS.get(key, "")
    return variable if os.environ.get(variable) else ""


def _flatten_document(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The document's settings by their full key, checked; plugins' sections are left out."""
    said: dict[str, Any] = {}
    for key, value in document.items():
        if key in ("sampling", "keys") and isinstance(value, dict):
            said |= {f"{key}.{name}": setting for name, setting in value.items()}
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
            said[key] = value
    return {key: check_value(key, value, str(path)) for key, value in said.items()}


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
