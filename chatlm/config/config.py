"""The user's settings, from config.toml and environment variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from chatlm.config import paths, toml_file
from chatlm.config.renamed import OLD_SETTINGS, translate
from chatlm.config.schema import Section, Setting, parse_toml, unknown_setting
from chatlm.errors import ConfigError
from chatlm.types.sampling import Sampling
from chatlm.types.settings import setting
from chatlm.types.tool_rules import ToolSettings


def _is_name(value: str) -> bool:
    return bool(value.strip())


def _is_device(value: str) -> bool:
    return bool(re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value))


def _are_names(value: tuple[str, ...]) -> bool:
    return all(map(_is_name, value))


@dataclass(frozen=True)
class CoreSettings:
    """The settings at the top of the config file."""

    model: str = setting(
        "smollm2-135m-instruct",
        "the model to chat with: a name from `chatlm models list`, a hub id or a path",
        accepts=_is_name,
        expected="a name",
        variable="CHATLM_MODEL",
    )
    system: str = setting("", "the system prompt of a new chat")
    device: str = setting(
        "auto",
        "the device that the model runs on",
        accepts=_is_device,
        expected="auto, cpu, mps, cuda or cuda:N",
        variable="CHATLM_DEVICE",
    )
    engine: Literal["auto", "native", "torch", "transformers", "llamacpp"] = setting(
        "auto", "what runs local models; auto takes the fastest that can", variable="CHATLM_ENGINE"
    )
    weights: Literal["auto", "stored", "int8", "int4", "bf16", "float32"] = setting(
        "auto",
        "how local models' weights are held in memory; stored keeps their own format, "
        "float32 rounds nothing and is slow",
        variable="CHATLM_WEIGHTS",
    )
    kv_cache: Literal["auto", "int8"] = setting(
        "auto",
        "how chatlm's own engines hold keys and values of the tokens read; int8 takes half the "
        "memory and rounds them",
        variable="CHATLM_KV_CACHE",
    )
    draft_model: str = setting(
        "",
        "a small model with the same tokenizer that drafts tokens for chatlm's own engine on the "
        "CPU, which makes a large model faster and changes no reply; mtp for the layer that Qwen "
        "3.5 has for it; empty for none",
        variable="CHATLM_DRAFT_MODEL",
    )
    context: int | None = setting(
        None,
        "use at most this many tokens of the model's context; by default as many as fit in memory",
        minimum=64,
        maximum=100_000_000,
    )
    check_memory: bool = setting(
        True, "refuse a local model that needs more memory than is available"
    )
    chat_cache: int = setting(
        2000,
        "disk space in MB for what local models remember of long chats, so that these open at "
        "once; 0 keeps nothing",
        minimum=0,
        maximum=10_000_000,
    )
    auto_compact: bool = setting(
        False, "let the model summarise old turns that no longer fit the context"
    )
    prompt_format: Literal["auto", "chatml", "template", "alpaca", "vicuna", "raw"] = setting(
        "auto", "prompt format; auto uses the model's own chat template"
    )
    theme: str = setting(
        "chatlm-dark",
        "the screen's colours: chatlm-dark, chatlm-light or a Textual theme",
        accepts=_is_name,
        expected="a name",
    )
    images: Literal["auto", "kitty", "sixel", "blocks", "text"] = setting(
        "auto",
        "how the screen draws images: by Kitty's protocol, by Sixel, in half blocks, or as a line "
        "of text; auto asks the terminal, and takes text over ssh",
    )
    screenshot: str = setting(
        "",
        "the command behind /screenshot, which writes an image to its output, or to {file}",
    )
    vim: bool = setting(False, "the keys of vi in the composer")
    list_ask_chats: bool = setting(True, "list the chats of chatlm ask on the screen")
    reduced_motion: bool = setting(False, "no blinking and no smooth scrolling")
    disabled_plugins: tuple[str, ...] = setting(
        (), "plugins that are not loaded", accepts=_are_names, expected="a list of names"
    )


@dataclass(frozen=True)
class Config(CoreSettings):
    """All settings, each checked."""

    keys: Mapping[str, str] = field(default_factory=dict)
    """The user's key bindings, by command name."""
    sampling: Sampling = field(default_factory=Sampling)
    tools: ToolSettings = field(default_factory=ToolSettings)
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Each plugin's section `[plugins.NAME]`, unchecked."""
    safe_mode: bool = False
    """Load no plugins; set for one run, never in the file."""


CORE = Section(CoreSettings, old_settings=OLD_SETTINGS)
SAMPLING = Section(Sampling, ("sampling",))
TOOLS = Section(ToolSettings, ("tools",))
SECTIONS: tuple[Section[Any], ...] = (CORE, SAMPLING, TOOLS)
"""The sections of the core; those of plugins are checked when a plugin is loaded."""


def key_help() -> dict[str, str]:
    """Return every key of the core with its help."""
    return {
        section.key(name): spec.help for section in SECTIONS for name, spec in section.specs.items()
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
    core, sections = _split(document, path)
    own = CORE.values(core, str(path))
    if model is not None:
        own["model"] = CORE.check("model", model, "--model")
    for name, value in sections["keys"].items():
        _check_binding(f"keys.{name}", value, str(path))
    return Config(
        **own,
        keys=sections["keys"],
        sampling=SAMPLING.read(sections["sampling"], str(path)),
        tools=TOOLS.read(sections["tools"], str(path)),
        plugins=sections["plugins"],
    )


load_config = load
"""Public name of `load`."""


def effective_settings(path: Path | None = None) -> list[Setting]:
    """List every setting with its value and source; raises like `load`."""
    path = path or paths.config_file()
    config = load(path)
    core, sections = _split(toml_file.read(path), path)
    settings = CORE.effective(core, str(path))
    settings += SAMPLING.effective(sections["sampling"], str(path))
    settings += TOOLS.effective(sections["tools"], str(path))
    settings += [
        Setting(f"keys.{name}", value, "config.toml", "the key for it")
        for name, value in config.keys.items()
    ]
    for name, values in config.plugins.items():
        settings += [
            Setting(f"plugins.{name}.{key}", value, "config.toml", f"of the plugin {name}")
            for key, value in values.items()
        ]
    return settings


def set_value(key: str, text: str, path: Path | None = None) -> None:
    """Write one setting to the file; everything else in it stays, comments included.

    Args:
        key: one of `key_help`, `keys.COMMAND` or `plugins.NAME.KEY`, which is not checked.
        text: the value as typed; numbers and lists as in TOML.
        path: the file; None for the user's own.

    Raises:
        ConfigError: the key or value is invalid, or the file is not TOML or cannot be written.
    """
    file = path or paths.config_file()
    if re.fullmatch(r"plugins\.[^.]+\..+", key, re.DOTALL):
        toml_file.set_key(file, key.split(".", 2), parse_toml(text))
    elif re.fullmatch(r"keys\.[^.]+", key):
        _check_binding(key, text, "chatlm config set")
        toml_file.set_key(file, key.split("."), text)
    elif old := next((each for each in OLD_SETTINGS if each.name == key), None):
        now = old.translate(text, "chatlm config set")
        raise ConfigError(
            f"chatlm config set: {key} is now part of {' and '.join(old.replacements)}.",
            hint=" ".join(f"Use: chatlm config set {name} {value}" for name, value in now.items())
            or f"Leave {' and '.join(old.replacements)} unset instead.",
        )
    else:
        section, name = _find_section(key, "chatlm config set")
        section.save(file, name, text)


def unset(key: str, path: Path | None = None) -> bool:
    """Remove one setting from the file; return whether it was set.

    Raises:
        ConfigError: the file is not TOML or cannot be written.
    """
    return toml_file.remove_key(path or paths.config_file(), key.split(".", 2))


def overriding_env_var(key: str) -> str:
    """Return the environment variable that overrides the file for this key; empty if none."""
    if key not in key_help():
        return ""
    section, name = _find_section(key, "")
    return section.set_variable(name)


def _find_section(key: str, source: str) -> tuple[Section[Any], str]:
    for section in SECTIONS:
        for name in section.specs:
            if section.key(name) == key:
                return section, name
    raise unknown_setting(key, key_help(), source)


def _split(document: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the document into the settings of the core and the sections by name."""
    core: dict[str, Any] = {}
    sections: dict[str, Any] = {"sampling": {}, "tools": {}, "keys": {}, "plugins": {}}
    for key, value in document.items():
        if key not in sections:
            if not any(old.name == key for old in OLD_SETTINGS):
                _find_section(key, str(path))
            core[key] = value
        elif isinstance(value, dict):
            sections[key] = value
        else:
            raise ConfigError(f"{path}: {key} must be a section, not {value!r}.")
    for name, section in sections["plugins"].items():
        if not isinstance(section, dict):
            raise ConfigError(
                f"{path}: plugins.{name} must be a section, not {section!r}.",
                hint=f"Write [plugins.{name}] and the plugin's settings below it.",
            )
    return translate(core, OLD_SETTINGS, str(path)), sections


def _check_binding(key: str, value: Any, source: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(
            f"{source}: {key} must be a key, not {value!r}.",
            hint="Write it as in the help screen, such as ctrl+r; several with commas between.",
        )
