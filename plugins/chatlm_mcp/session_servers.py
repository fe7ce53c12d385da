"""Servers that belong to one session, such as those of an editor; the service `tool_servers`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chatlm import Tool, UsageError
from chatlm_mcp.server import require_sdk
from chatlm_mcp.server_config import parse_server
from chatlm_mcp.servers import Servers
from chatlm_mcp.settings import Settings
from chatlm_mcp.tools import make_tools


class SessionServers:
    """Connects servers that are not in mcp.json.

    Args:
        settings: returns the plugin's settings.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings

    def connect(
        self, entries: Mapping[str, Mapping[str, Any]], folders: Sequence[Path]
    ) -> ConnectedServers:
        """Connect servers; see `chatlm.ToolServers`."""
        configs = [
            dataclasses.replace(parse_server(name, values), in_file=False)
            for name, values in entries.items()
        ]
        named = tuple(folders)
        return ConnectedServers(Servers(self._settings(), lambda: named, configs))


class ConnectedServers:
    """The servers of one session; see `chatlm.ConnectedServers`.

    Args:
        servers: the servers.
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def tools(self) -> list[Tool]:
        """Return the tools of the servers, under the same rules as those of mcp.json."""
        return make_tools(self._servers)

    def problems(self) -> list[str]:
        """Return a sentence about each server that does not work now."""
        try:
            require_sdk()
        except UsageError as error:
            return [f"{error.message} {error.hint}"]
        found = []
        for server in self._servers.all():
            name, health = server.config.name, server.health()
            if server.config.problem:
                found.append(f"The MCP server {name} {server.config.problem}.")
            elif health.state == "failed":
                found.append(f"The MCP server {name} failed: {health.reason}.")
        return found

    def close(self) -> None:
        """End the servers."""
        self._servers.close()
