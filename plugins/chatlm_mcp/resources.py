"""The servers' resources, which messages mention as `@server:resource`."""

from __future__ import annotations

from chatlm import UsageError, one_line
from chatlm_mcp.listing import KnownServer
from chatlm_mcp.results import resource_text
from chatlm_mcp.server import Server


class ServerResources:
    """The resources of one server, by URI or name.

    Args:
        server: offers them.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def names(self) -> list[str]:
        """Return the URIs of the resources that are known; starts no server."""
        listing = KnownServer(self._server.config).listing
        return [resource.uri for resource in listing.resources] if listing else []

    def read(self, name: str) -> str:
        """Return the text of a resource.

        Args:
            name: its URI, or its name if the server has listed it.

        Raises:
            UsageError: it has no text.
            McpServerError: the server failed, or has no such resource.
        """
        listing = KnownServer(self._server.config).listing
        by_name = {each.name: each.uri for each in listing.resources} if listing else {}
        uri = by_name.get(name, name)
        text = resource_text(self._server.read_resource(uri))
        if not text:
            raise UsageError(f"{one_line(uri, 100)} has no text.")
        return text
