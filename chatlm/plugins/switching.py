"""Switches plugins on and off for every chat, in the config file; it loads none."""

from __future__ import annotations

from chatlm import config, paths, tomlfile
from chatlm.plugins.crashes import forgive


def enable(name: str) -> bool:
    """Load a plugin again at the next start, also after a crash; returns whether it was off.

    Raises:
        ConfigError: the config file cannot be read or written.
    """
    disabled = config.load().disabled_plugins
    if name in disabled:
        _write([other for other in disabled if other != name])
    return forgive(name) or name in disabled


def disable(name: str) -> None:
    """Load a plugin no more, from the next start on. Raises as `enable`."""
    disabled = config.load().disabled_plugins
    if name not in disabled:
        _write([*disabled, name])


def _write(disabled: list[str]) -> None:
    tomlfile.change(paths.config_file(), ["disabled_plugins"], disabled)
