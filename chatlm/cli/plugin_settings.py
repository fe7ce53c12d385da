"""`chatlm config` for the settings of plugins: their names and types come from the plugins."""

from __future__ import annotations

import os

import click

from chatlm import config
from chatlm.cli.plugin_options import check_name
from chatlm.config import Setting
from chatlm.errors import ConfigError
from chatlm.plugins import PluginHost, load_all, settings
from chatlm.text import visible


def with_plugins(listed: list[Setting]) -> list[Setting]:
    """The settings with those that the plugins declare in place of what the file says of them.

    Where a plugin's section is wrong, the line on stderr says so and the file's values stay.
    """
    now = config.load()
    host = _loaded(now)
    for name in host.names:
        if (kind := host.settings_class(name)) is None:
            continue
        try:
            rows = settings.rows(name, kind, now.plugins.get(name, {}))
        except ConfigError as error:
            click.echo(visible(f"{error.message} {error.hint}"), err=True)
            continue
        listed = [row for row in listed if not row.key.startswith(f"plugins.{name}.")] + rows
    return listed


def set_value(name: str, key: str, text: str) -> None:
    """Write one setting of a plugin, checked by the plugin's own types.

    Raises:
        UsageError: there is no such plugin.
        ConfigError: it has no such setting, or the value is wrong, or the file cannot be written.
    """
    check_name(name)
    now = config.load()
    kind = _loaded(now, name).settings_class(name)
    if kind is None:
        config.set_value(f"plugins.{name}.{key}", text)
        return
    settings.save_setting(name, kind, key, text)
    variable = settings.variable_of(name, key)
    if os.environ.get(variable):
        click.echo(f"Saved; but {variable} is set in the environment, and wins.", err=True)


def _loaded(now: config.Config, name: str | None = None) -> PluginHost:
    host = PluginHost()
    load_all(host, now, None if name is None else [name])
    for fault in host.take_faults():
        click.echo(visible(str(fault)), err=True)
    return host
