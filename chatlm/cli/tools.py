"""The commands `chatlm tools …`."""

from __future__ import annotations

from typing import Any

import click

from chatlm.cli.command_groups import ExtensibleGroup
from chatlm.cli.options import apply_plugin_options, plugin_options
from chatlm.config import config
from chatlm.text import dump_json, escape_controls, one_line


@click.group(cls=ExtensibleGroup)
def tools() -> None:
    """List the tools that models may call.

    Example: chatlm tools list
    """


@tools.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the arguments' schemas.")
@plugin_options
def list_tools(as_json: bool, safe_mode: bool, without: tuple[str, ...]) -> None:
    """List every tool, with what happens when a model calls it.

    Tools are offered in chats where they are on: by /tools, by `chatlm ask --tools NAMES`,
    or everywhere by `chatlm config set tools.enabled true`.

    Example: chatlm tools list --json
    """
    settings = apply_plugin_options(config.load(), safe_mode=safe_mode, without=without)
    from chatlm.chat.tool_set import ToolOptions, ToolSet, find_tools
    from chatlm.plugin_host.lifecycle import loaded_plugins
    from chatlm.plugin_host.turn_plugins import TurnPlugins
    from chatlm.types.conversations import ConversationHeader

    with loaded_plugins(settings) as plugins:
        found = find_tools(TurnPlugins(plugins))
        chosen = ToolSet(found, ToolOptions(settings.tools), ConversationHeader(0))
        rows: list[dict[str, Any]] = [
            {
                "name": name,
                "group": offered.group,
                "plugin": offered.plugin,
                "description": offered.tool.description,
                "offered": chosen.offers(offered),
                "permission": chosen.permission(offered),
                "read_only": offered.tool.read_only,
                "parameters": dict(offered.tool.parameters),
            }
            for name, offered in found.items()
        ]
        faults = plugins.take_faults()
    for fault in faults:
        click.echo(escape_controls(str(fault)), err=True)
    if as_json:
        click.echo(dump_json(rows))
        return
    if not rows:
        click.echo("No plugin offers tools.")
        return
    table = [("NAME", "GROUP", "PERMISSION", "WHAT IT DOES")]
    table += [
        (
            row["name"],
            row["group"],
            row["permission"] if row["offered"] else "off",
            one_line(row["description"].split("\n")[0], 100),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in table) for column in range(3)]
    for line in table:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        click.echo(escape_controls("  ".join([*cells, line[3]]).rstrip()))
    if not settings.tools.enabled:
        click.echo(
            "\nTools are off in chats that do not switch them on. Use some once: "
            f"chatlm ask --tools {rows[0]['group']} …",
            err=True,
        )
