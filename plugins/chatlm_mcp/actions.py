"""The slash command `/prompt`: fill in a server's prompt and write it into the composer."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from chatlm import SlashCommand, Ui, UsageError, one_line

if TYPE_CHECKING:
    from chatlm_mcp.servers import Servers

_VALUE = re.compile(r'\s*([A-Za-z_][\w-]*)=("[^"]*"|\S*)')


def register(add: Callable[[SlashCommand], None], servers: Callable[[], Servers]) -> None:
    """Register the command."""
    add(
        SlashCommand(
            "prompt",
            "write a prompt of an MCP server",
            partial(_write_prompt, servers),
            "[SERVER:PROMPT NAME=TEXT]",
        )
    )


def _write_prompt(servers: Callable[[], Servers], ui: Ui, argument: str) -> None:
    """Write a prompt into the composer; without an argument, say which there are.

    Raises:
        UsageError: there is no such prompt, or an argument is missing.
        McpServerError: the server failed.
    """
    from chatlm_mcp.prompts import fill_in

    offered = {
        f"{server.config.name}:{prompt.name}": (server, prompt)
        for server, listing in servers().known_listings(seconds=5.0)
        for prompt in listing.prompts
    }
    typed = argument.strip()
    name = max(
        (each for each in offered if f"{typed} ".startswith(f"{each} ")), key=len, default=""
    )
    if not name:
        names = ", ".join(one_line(each, 60) for each in sorted(offered))
        if typed:
            raise UsageError(
                f"There is no prompt {one_line(typed, 60)}",
                hint=f"There are: {names}" if names else "No MCP server offers prompts.",
            )
        ui.notify(f"Prompts: {names}" if names else "No MCP server offers prompts.")
        return
    rest, values = typed[len(name) :], {}
    while match := _VALUE.match(rest):
        values[match[1]] = match[2].strip('"')
        rest = rest[match.end() :]
    server, prompt = offered[name]
    ui.insert_text(fill_in(server, prompt, values, rest.strip()))
