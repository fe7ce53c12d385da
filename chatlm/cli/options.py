"""`--safe-mode` and `--without NAME`: plugins that are not loaded in one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chatlm.cli.completers import complete_plugin
from chatlm.errors import UsageError

if TYPE_CHECKING:
    from chatlm.config.config import Config


F = TypeVar("F", bound=Callable[..., Any])


def plugin_options(command: F) -> F:
    """Give a command both options, as `safe_mode: bool` and `without: tuple[str, ...]`."""
    command = click.option(
        "--without",
        multiple=True,
        metavar="NAME",
        shell_complete=complete_plugin,
        help="Do not load this plugin; repeatable.",
    )(command)
    return click.option("--safe-mode", is_flag=True, help="Do not load any plugins.")(command)


def apply_plugin_options(settings: Config, *, safe_mode: bool, without: Sequence[str]) -> Config:
    """Return the settings for a run without some plugins.

    Raises:
        UsageError: there is no plugin of that name.
    """
    for name in without:
        check_plugin_name(name)
    return dataclasses.replace(
        settings,
        safe_mode=safe_mode,
        disabled_plugins=(*settings.disabled_plugins, *without),
    )


def check_plugin_name(name: str) -> None:
    """Check that a plugin exists, whether or not it can be loaded.

    Raises:
        UsageError: it does not exist; the hint suggests the nearest name.
    """
    from difflib import get_close_matches

    from chatlm.plugin_host.discovery import find_plugins

    names = [found.name for found in find_plugins()]
    if name not in names:
        near = get_close_matches(name, names, 1)
        raise UsageError(
            f"There is no plugin {name!r}.",
            hint=f"Did you mean {near[0]}?" if near else "List them: chatlm plugins list",
        )
