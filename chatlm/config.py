"""The person's settings, from config.toml and the environment; it knows no model and no screen."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlm import paths, tomlfile
from chatlm.errors import ConfigError, UsageError
from chatlm.sampling import RANGES, Sampling


@dataclass(frozen=True)
class Config:
    """All settings, each checked."""

    model: str = "smollm2-135m-instruct"
    system: str = ""
    device: str = "auto"
    dtype: str = "auto"
    quantize: str = "none"
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


@dataclass(frozen=True)
class Setting:
    """One setting as it holds now."""

    key: str
    value: Any
    source: str
    """`default`, `config.toml`, or `environment` and the variable's name."""
    help: str


@dataclass(frozen=True)
class _Rule:
    help: str
    wanted: str
    accepts: Callable[[Any], bool]
    variable: str = ""
    """The environment variable that overrides the file."""


def _one_of(*choices: str) -> tuple[str, Callable[[Any], bool]]:
    return ", ".join(choices[:-1]) + " or " + choices[-1], lambda value: value in choices


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_device(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value))


def _is_context(value: Any) -> bool:
    return type(value) is int and 64 <= value <= 100_000_000


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_name, value))


_RULES: dict[str, _Rule] = {
    "model": _Rule(
        "the model to chat with: a name from `chatlm models list`, a hub id or a path",
        "a name",
        _is_name,
        "CHATLM_MODEL",
    ),
    "system": _Rule("the system prompt of a new chat", "a text", _is_text),
    "device": _Rule(
        "where the model runs",
        "auto, cpu, mps, cuda or cuda:N",
        _is_device,
        "CHATLM_DEVICE",
    ),
    "dtype": _Rule(
        "the numbers the model computes with",
        *_one_of("auto", "float32", "bfloat16", "float16"),
        "CHATLM_DTYPE",
    ),
    "quantize": _Rule(
        "load the model's weights smaller, a little less exact", *_one_of("none", "8bit", "4bit")
    ),
    "context": _Rule(
        "use at most this many tokens of the model's context",
        "a whole number from 64 to 100000000",
        _is_context,
    ),
    "prompt_format": _Rule(
        "how the chat is written for the model; auto takes the model's own way",
        *_one_of("auto", "chatml", "template", "alpaca", "vicuna"),
    ),
    "theme": _Rule("the screen's colours, a Textual theme", "a name", _is_name),
    "reduced_motion": _Rule("no blinking and no smooth scrolling", "true or false", _is_bool),
    "disabled_plugins": _Rule("plugins to leave out", "a list of names", _are_names),
}

KEYS: dict[str, str] = {
    **{key: rule.help for key, rule in _RULES.items()},
    **{f"sampling.{name}": meaning for name, (_, _, meaning) in RANGES.items()},
    "sampling.stop": "texts that end a reply and are cut from it",
}
"""Every key of config.toml, and what it does in one line."""


def load(path: Path | None = None) -> Config:
    """The settings that hold now: the environment over the file over the defaults.

    Args:
        path: the file; None takes the person's own. One that is absent is empty.

    Raises:
        ConfigError: the file is not TOML (line and column are named), or a key or value in it or
            in the environment is wrong.
    """
    path = path or paths.config_file()
    document = tomlfile.read(path)
    said = _from_file(document, path) | _from_environment()
    sampling = {
        key.removeprefix("sampling."): value
        for key, value in said.items()
        if key.startswith("sampling.")
    }
    chosen = {
        key.removeprefix("keys."): value for key, value in said.items() if key.startswith("keys.")
    }
    values = {key: value for key, value in said.items() if "." not in key}
    if "disabled_plugins" in values:
        values["disabled_plugins"] = tuple(values["disabled_plugins"])
    plugins = document.get("plugins", {})
    return Config(**values, keys=chosen, sampling=Sampling.from_dict(sampling), plugins=plugins)


def effective(path: Path | None = None) -> list[Setting]:
    """Every setting, its value and where the value comes from; errors as `load`."""
    path = path or paths.config_file()
    config = load(path)
    in_file = _from_file(tomlfile.read(path), path)
    in_environment = _from_environment()
    settings = []
    for key, meaning in KEYS.items():
        source = "default"
        if key in in_environment:
            source = f"environment {_RULES[key].variable}"
        elif key in in_file:
            source = "config.toml"
        owner: Any = config.sampling if key.startswith("sampling.") else config
        value = getattr(owner, key.removeprefix("sampling."))
        settings.append(Setting(key, value, source, meaning))
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
        key: one of `KEYS`, or `plugins.NAME.KEY`.
        text: the value as typed; numbers and lists as in TOML.
        path: the file; None takes the person's own.

    Raises:
        ConfigError: the key or value is wrong, or the file is not TOML or cannot be written.
    """
    value = checked(key, _from_text(key, text), "chatlm config set")
    tomlfile.change(path or paths.config_file(), key.split(".", 2), value)


def unset(key: str, path: Path | None = None) -> bool:
    """Take one setting out of the file; returns whether it was there.

    Raises:
        ConfigError: the file is not TOML or cannot be written.
    """
    return tomlfile.remove(path or paths.config_file(), key.split(".", 2))


def checked(key: str, value: Any, where: str) -> Any:
    """The value, if the key exists and may have it.

    Args:
        where: the file or variable it comes from, for the message.

    Raises:
        ConfigError: the key is unknown, or the value has the wrong type or range.
    """
    if key.startswith("plugins.") and key.count(".") > 1:
        return value
    if key.startswith("keys."):
        if not _is_name(value):
            raise ConfigError(
                f"{where}: {key} must be a key, not {value!r}.",
                hint="Write it as in the help screen, such as ctrl+r; several with commas between.",
            )
        return value
    if key not in KEYS:
        raise ConfigError(f"{where}: there is no setting {key!r}.", hint=_nearest(key))
    if key.startswith("sampling."):
        try:
            Sampling.from_dict({key.removeprefix("sampling."): value})
        except UsageError as error:
            raise ConfigError(f"{where}: sampling.{error.message}.", hint=error.hint) from error
        return value
    rule = _RULES[key]
    if not rule.accepts(value):
        raise ConfigError(
            f"{where}: {key} must be {rule.wanted}, not {value!r}.", hint=f"{key}: {rule.help}."
        )
    return value


def overridden_by(key: str) -> str:
    """The environment variable that now wins over the file for this key; empty if none does."""
    variable = _RULES[key].variable if key in _RULES else ""
    return variable if os.environ.get(variable) else ""


def _nearest(key: str) -> str:
    from difflib import get_close_matches

    typed = key.rpartition(".")[2]
    names = {name.rpartition(".")[2]: name for name in KEYS}
    near = [name for name in names if typed and name.startswith(typed)]
    near += get_close_matches(typed, names, 1)
    if near:
        return f"Did you mean {names[near[0]]}?"
    return "See all settings: chatlm config show"


def _from_file(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
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
    return {key: checked(key, value, str(path)) for key, value in said.items()}


def _from_environment() -> dict[str, Any]:
    return {
        key: checked(key, os.environ[rule.variable], f"environment {rule.variable}")
        for key, rule in _RULES.items()
        if rule.variable and os.environ.get(rule.variable)
    }


def _from_text(key: str, text: str) -> Any:
    """A typed value as the key's type: TOML where the key holds no text, else as it is."""
    lists = key in ("disabled_plugins", "sampling.stop")
    as_toml = lists or key in ("context", "reduced_motion")
    if key.startswith("keys.") or (key in _RULES and not as_toml):
        return text
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        document = {}
    value = document["value"] if document.keys() == {"value"} else text
    if lists and not isinstance(value, list):
        return [text]
    return value
