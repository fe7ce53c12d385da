"""`chatlm config`, for the settings of chatlm and its plugins."""

from __future__ import annotations

import json
from typing import Any

import click
from click.shell_completion import CompletionItem

from chatlm.cli.command_groups import ExtensibleGroup
from chatlm.cli.options import check_plugin_name
from chatlm.config import config, paths
from chatlm.config.paths import write_atomically
from chatlm.config.schema import Section, Setting
from chatlm.errors import ConfigError
from chatlm.plugin_host import settings
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.lifecycle import load_plugins
from chatlm.text import dump_json, escape_controls, one_line

NEW_FILE_HEADER = "# Settings of chatlm. All keys and their current values: chatlm config show\n"


def _complete_key(
    context: click.Context, parameter: click.Parameter, start: str
) -> list[CompletionItem]:
    return [
        CompletionItem(key, help=meaning)
        for key, meaning in config.key_help().items()
        if key.startswith(start)
    ]


@click.group("config", cls=ExtensibleGroup)
def config_group() -> None:
    """Show and change the settings.

    Example: chatlm config set sampling.temperature 0.3
    """


@config_group.command()
def path() -> None:
    """Print the path of the config file.

    Example: chatlm config path
    """
    click.echo(paths.config_file())


@config_group.command()
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, with the meaning of each setting."
)
def show(as_json: bool) -> None:
    """Show every setting with its current value and source.

    Example: chatlm config show
    """

    settings = with_plugin_settings(config.effective_settings())
    if as_json:
        click.echo(dump_json([_to_dict(setting) for setting in settings]))
        return
    rows = [("KEY", "VALUE", "FROM")]
    rows += [(setting.key, _format_value(setting.value), setting.source) for setting in settings]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for key, value, source in rows:
        click.echo(f"{one_line(key, 60):<{widths[0]}}  {value:<{widths[1]}}  {source}")


@config_group.command("set")
@click.argument("key", shell_complete=_complete_key)
@click.argument("value")
def set_value(key: str, value: str) -> None:
    """Change a setting in the config file; write a list as ["a", "b"].

    Example: chatlm config set model smollm2-135m-instruct
    """
    if key.startswith("plugins.") and key.count(".") > 1:
        _, plugin, name = key.split(".", 2)
        set_plugin_setting(plugin, name, value)
        return
    config.set_value(key, value)
    if variable := config.overriding_env_var(key):
        click.echo(f"Saved, but {variable} in the environment overrides it.", err=True)


@config_group.command()
@click.argument("key", shell_complete=_complete_key)
def unset(key: str) -> None:
    """Remove a setting from the config file, which restores the default.

    Example: chatlm config unset sampling.temperature
    """
    if not config.unset(key):
        click.echo(f"{one_line(key, 60)} is not in {paths.config_file()}", err=True)


@config_group.command()
def edit() -> None:
    """Open the config file in your editor ($VISUAL or $EDITOR), then check it.

    Example: chatlm config edit
    """
    file = paths.config_file()
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, [NEW_FILE_HEADER])
        except OSError as error:
            raise ConfigError(
                f"{file} cannot be created: {error.strerror}.",
                hint="Check the folder's permissions, or set CHATLM_HOME.",
            ) from error
    click.edit(filename=str(file))
    config.load()


def _to_dict(setting: Setting) -> dict[str, Any]:
    return setting.to_dict() | {"value": _to_json_value(setting.value)}


def _to_json_value(value: Any) -> Any:
    """Convert a value of TOML or of a plugin to JSON; dates and paths become text."""
    return json.loads(json.dumps(value, default=str))


def _format_value(value: Any) -> str:
    if value is None or value in ("", (), []):
        return "-"
    text = (
        value if isinstance(value, str) else json.dumps(_to_json_value(value), ensure_ascii=False)
    )
    return one_line(text, 60)


def with_plugin_settings(core_settings: list[Setting]) -> list[Setting]:
    """Replace the values of plugins' sections by all settings that the plugins declare.

    If a plugin's section is invalid, stderr says so and the values of the file stay.
    """
    now = config.load()
    host = _load_plugins(now)
    for name in host.names:
        if (kind := host.settings_class(name)) is None:
            continue
        try:
            section: Section[Any] = settings.plugin_section(name, kind)
            rows = section.effective(now.plugins.get(name, {}), str(paths.config_file()))
        except ConfigError as error:
            click.echo(escape_controls(f"{error.message} {error.hint}"), err=True)
            continue
        core_settings = [
            row for row in core_settings if not row.key.startswith(f"plugins.{name}.")
        ] + rows
    return core_settings


def set_plugin_setting(name: str, key: str, text: str) -> None:
    """Write a setting of a plugin, checked by its declaration.

    Raises:
        UsageError: there is no such plugin.
        ConfigError: it has no such setting, the value is invalid, or the file cannot be written.
    """
    check_plugin_name(name)
    now = config.load()
    kind = _load_plugins(now, name).settings_class(name)
    if kind is None:
        config.set_value(f"plugins.{name}.{key}", text)
        return
    section: Section[Any] = settings.plugin_section(name, kind)
    section.save(paths.config_file(), key, text)
    if variable := section.set_variable(key):
        click.echo(f"Saved, but {variable} in the environment overrides it.", err=True)


def _load_plugins(current: config.Config, name: str | None = None) -> PluginHost:
    host = PluginHost()
    load_plugins(host, current, None if name is None else [name])
    for fault in host.take_faults():
        click.echo(escape_controls(str(fault)), err=True)
    return host
