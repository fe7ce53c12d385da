"""The commands `chatlm plugins …`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from chatlm.cli.command_groups import ExtensibleGroup
from chatlm.cli.completers import complete_plugin
from chatlm.cli.options import check_plugin_name
from chatlm.config import config, paths
from chatlm.plugin_host import lifecycle
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.lifecycle import (
    PluginInfo,
    describe_plugins,
    load_faults,
    load_plugins,
    save_faults,
)
from chatlm.text import dump_json, escape_controls, one_line


@click.group(cls=ExtensibleGroup)
def plugins() -> None:
    """List, enable, disable, check and create plugins.

    Example: chatlm plugins list
    """


@plugins.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_plugins(as_json: bool) -> None:
    """List every plugin: what it does, its status, its source and its last error.

    Example: chatlm plugins list --json
    """
    rows = _load_rows(config.load())
    if as_json:
        click.echo(dump_json([row.to_dict() for row in rows]))
        return
    if not rows:
        click.echo(f"No plugins. Put one into {paths.user_plugins_dir()} or create one:")
        click.echo("chatlm plugins new NAME")
        return
    table = [("NAME", "VERSION", "STATUS", "SOURCE", "WHAT IT DOES")]
    table += [
        (one_line(r.name, 30), r.version or "-", r.status, r.source, one_line(r.summary, 200))
        for r in rows
    ]
    widths = [max(len(line[column]) for line in table) for column in range(4)]
    for line, row in zip(table, [None, *rows], strict=True):
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        click.echo(escape_controls("  ".join([*cells, line[4]]).rstrip()))
        if row and row.error:
            click.echo(escape_controls(f"  {row.error}"))


@plugins.command()
@click.argument("name", shell_complete=complete_plugin)
def enable(name: str) -> None:
    """Enable a plugin that was disabled, or skipped after a crash.

    Example: chatlm plugins enable emotion
    """
    check_plugin_name(name)
    was_off = lifecycle.enable(name)
    click.echo(f"{name} is enabled." if was_off else f"{name} was already enabled.")


@plugins.command()
@click.argument("name", shell_complete=complete_plugin)
def disable(name: str) -> None:
    """Disable a plugin.

    Example: chatlm plugins disable emotion
    """
    check_plugin_name(name)
    lifecycle.disable(name)
    click.echo(f"{name} is disabled. Enable it again: chatlm plugins enable {name}")


@plugins.command()
@click.argument("what", metavar="PATH|NAME", shell_complete=complete_plugin)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(what: str, as_json: bool) -> None:
    """Test a plugin in a separate process: imports, hooks, settings, error handling, timing.

    Takes a name from the list, a .py file or a project's folder.

    Example: chatlm plugins check ./chatlm-demo
    """
    from chatlm.cli.plugin_check import check_plugin as checked

    findings = checked(what)
    if as_json:
        click.echo(dump_json([finding.to_dict() for finding in findings]))
    else:
        for finding in findings:
            mark = "ok  " if finding.passed else "FAIL"
            click.echo(escape_controls(f"{mark} {finding.step}: {finding.detail}"))
    if not all(finding.passed for finding in findings):
        sys.exit(1)


@plugins.command()
@click.argument("name")
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="FOLDER",
    help="Parent folder of the project.",
)
def new(name: str, into: Path) -> None:
    """Create a plugin: a project with code, settings, a test and a README.

    Example: chatlm plugins new demo
    """
    from chatlm.plugin_host.scaffold import create_project

    folder = create_project(name, into)
    click.echo(escape_controls(f"Created {folder}. Next:"))
    click.echo(escape_controls(f"  cd {folder}"))
    click.echo("  pip install -e . && pytest")
    click.echo(f"  chatlm plugins check {name}")


def _load_rows(settings: config.Config) -> list[PluginInfo]:
    """Load all enabled plugins and describe every plugin, with its last saved fault."""
    host = PluginHost()
    load_plugins(host, settings)
    for name in host.names:
        host.settings(name, settings.plugins.get(name, {}))
    save_faults(host)
    return describe_plugins(host, settings.disabled_plugins, load_faults() | host.last_faults)
