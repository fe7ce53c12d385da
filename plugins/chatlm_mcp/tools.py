"""The servers' tools as tools of chatlm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from chatlm import Tool, ToolCancelled, ToolContext, ToolOutput, one_line
from chatlm_mcp import PLUGIN
from chatlm_mcp.connection import RequestCancelled
from chatlm_mcp.listing import KnownServer, ListedTool, unique
from chatlm_mcp.results import result_images, result_text
from chatlm_mcp.server import Server
from chatlm_mcp.servers import FIRST_LIST_SECONDS, Servers

RUN, REFUSE = "run it", "do not run it"
"""Answers to the question about a tool that has changed."""


def make_tools(servers: Servers, seconds: float = FIRST_LIST_SECONDS) -> list[Tool]:
    """Return the tools of all servers, as far as they are known.

    Args:
        servers: the servers; one that was listed before is not started.
        seconds: how long to wait for servers that have never been listed.
    """
    found = [
        (server, tool)
        for server, listing in servers.known_listings(seconds)
        for tool in listing.tools
    ]
    names = unique([f"{server.config.name}__{tool.name}" for server, tool in found])
    return [
        _make_tool(servers, server, tool, name)
        for (server, tool), name in zip(found, names, strict=True)
    ]


def group_name(server: str) -> str:
    """Return the group of a server's tools, which `ask --tools` takes."""
    return re.sub("[^A-Za-z0-9_-]", "_", server)[:64] or PLUGIN


def _make_tool(servers: Servers, server: Server, tool: ListedTool, name: str) -> Tool:
    def run(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        return _run_tool(servers, server, tool, arguments, context)

    settings = server.settings
    return Tool(
        name=name,
        description=tool.description or f"The tool {one_line(tool.name, 60)}.",
        parameters={"type": "object", **tool.parameters},
        run=run,
        # the server's own word for it, such as read-only, is shown but never trusted
        permission="ask",
        # a cold server is started and listed first; each step has a limit of its own
        timeout=settings.start_seconds + 2 * settings.call_seconds,
        untrusted_output=True,
        group=group_name(server.config.name),
    )


def _run_tool(
    servers: Servers,
    server: Server,
    tool: ListedTool,
    arguments: Mapping[str, Any],
    context: ToolContext,
) -> ToolOutput:
    """Call a tool, unless it is no longer what the user allowed.

    Raises:
        ToolCancelled: the user stopped it, or did not answer the question about a change.
        McpServerError: the server failed.
    """

    def is_cancelled() -> bool:
        return context.cancelled

    source = f"MCP server {server.config.name}"
    if server.health().state != "running":
        context.progress(f"starting {server.config.name}")
    try:
        current = servers.live_listing(server, is_cancelled).tool(tool.name)
        if current is None:
            text = f"The server does not offer the tool {one_line(tool.name, 60)} any longer."
            return ToolOutput(text, is_error=True, source=source)
        known = KnownServer(server.config)
        allowed = known.used_fingerprint(tool.name) or tool.fingerprint
        if (
            current.fingerprint != allowed
            and context.ask(_question(server, current), (RUN, REFUSE)) != RUN
        ):
            text = "The tool has changed since the user allowed it, and was not allowed again."
            return ToolOutput(text, is_error=True, source=source)
        if not context.incognito:  # nothing about such a chat is written to disk
            known.remember_use(tool.name, current.fingerprint)
        context.check_cancelled()

        def report(done: float, total: float | None, text: str | None) -> None:
            fraction = done / total if total and total > 0 else None
            in_range = fraction if fraction is not None and 0 <= fraction <= 1 else None
            context.progress(one_line(text or f"{done:g}", 80), in_range)

        result = server.call_tool(tool.name, dict(arguments), report, is_cancelled, context)
    except RequestCancelled as error:
        raise ToolCancelled("It was cancelled.") from error
    return ToolOutput(
        result_text(result),
        result.is_error,
        untrusted=True,
        source=source,
        images=result_images(result),
    )


def _question(server: Server, tool: ListedTool) -> str:
    return (
        f"The tool {one_line(tool.name, 60)} of the MCP server {server.config.name} has changed "
        f"since it was last allowed. It now says of itself: {one_line(tool.description, 400)}"
    )
