"""Every key of config.toml, with its help and its valid values."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chatlm.errors import ConfigError, UsageError
from chatlm.types.sampling import RANGES, Sampling


@dataclass(frozen=True)
class _KeySpec:
    help: str
    expected: str
    accepts: Callable[[Any], bool]
    env_var: str = ""
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


_KEY_SPECS: dict[str, _KeySpec] = {
    "model": _KeySpec(
        "the model to chat with: a name from `chatlm models list`, a hub id or a path",
        "a name",
        _is_name,
        "CHATLM_MODEL",
    ),
    "system": _KeySpec("the system prompt of a new chat", "a text", _is_text),
    "device": _KeySpec(
        "where the model runs",
        "auto, cpu, mps, cuda or cuda:N",
        _is_device,
        "CHATLM_DEVICE",
    ),
    "dtype": _KeySpec(
        "the numbers the model computes with",
        *_one_of("auto", "float32", "bfloat16", "float16"),
        "CHATLM_DTYPE",
    ),
    "quantize": _KeySpec(
        "load the model's weights smaller, a little less exact", *_one_of("none", "8bit", "4bit")
    ),
    "fast": _KeySpec(
        "how replies are computed on the CPU: the format of the weights, or the plain way (off)",
        *_one_of("auto", "bf16", "int8", "int4", "off"),
    ),
    "context": _KeySpec(
        "use at most this many tokens of the model's context",
        "a whole number from 64 to 100000000",
        _is_context,
    ),
    "auto_compact": _KeySpec(
        "let the model summarise old turns that no longer fit the context",
        "true or false",
        _is_bool,
    ),
    "prompt_format": _KeySpec(
        "how the chat is written for the model; auto takes the model's own way",
        *_one_of("auto", "chatml", "template", "alpaca", "vicuna"),
    ),
    "theme": _KeySpec("the screen's colours, a Textual theme", "a name", _is_name),
    "reduced_motion": _KeySpec("no blinking and no smooth scrolling", "true or false", _is_bool),
    "disabled_plugins": _KeySpec("plugins to leave out", "a list of names", _are_names),
}


CORE_KEYS = tuple(_KEY_SPECS)
"""Keys that are fields of `Config`."""


KEY_HELP: dict[str, str] = {
    **{key: rule.help for key, rule in _KEY_SPECS.items()},
    **{f"sampling.{name}": meaning for name, (_, _, meaning) in RANGES.items()},
    "sampling.stop": "texts that end a reply and are cut from it",
}
"""Every key of config.toml with a one-line help."""


ENV_VARS: dict[str, str] = {key: rule.env_var for key, rule in _KEY_SPECS.items() if rule.env_var}
"""The environment variables that override the file, by key."""


_LIST_KEYS = ("disabled_plugins", "sampling.stop")


def check_value(key: str, value: Any, source: str) -> Any:
    """Validate a value and return it.

    Args:
        source: the file or variable it comes from, for the error message.

    Raises:
        ConfigError: the key is unknown, or the value has the wrong type or range.
    """
    if re.fullmatch(r"plugins\.[^.]+\..+", key, re.DOTALL):
        return value
    if re.fullmatch(r"keys\.[^.]+", key):
        if not _is_name(value):
            raise ConfigError(
                f"{source}: {key} must be a key, not {value!r}.",
                hint="Write it as in the help screen, such as ctrl+r; several with commas between.",
            )
        return value
    if key not in KEY_HELP:
        raise ConfigError(f"{source}: there is no setting {key!r}.", hint=_suggest_key(key))
    if key.startswith("sampling."):
        try:
            Sampling.from_dict({key.removeprefix("sampling."): value})
        except UsageError as error:
            raise ConfigError(f"{source}: sampling.{error.message}.", hint=error.hint) from error
        return value
    rule = _KEY_SPECS[key]
    if not rule.accepts(value):
        raise ConfigError(
            f"{source}: {key} must be {rule.expected}, not {value!r}.", hint=f"{key}: {rule.help}."
        )
    return value


def parse_value(key: str, text: str) -> Any:
    """Parse a typed value: as TOML, or as it is if the key expects text."""
    as_toml = key in ("context", "auto_compact", "reduced_motion", *_LIST_KEYS)
    if key.startswith("keys.") or (key in _KEY_SPECS and not as_toml):
        return text
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        document = {}
    value = document["value"] if document.keys() == {"value"} else text
    if key in _LIST_KEYS and not isinstance(value, list):
        return [text]
    return value


def _suggest_key(key: str) -> str:
    from difflib import get_close_matches

    typed = key.rpartition(".")[2]
    names = {name.rpartition(".")[2]: name for name in KEY_HELP}
    near = [name for name in names if typed and name.startswith(typed)]
    near += get_close_matches(typed, names, 1)
    if near:
        return f"Did you mean {names[near[0]]}?"
    return "See all settings: chatlm config show"
