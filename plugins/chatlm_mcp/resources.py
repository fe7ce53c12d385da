"""The servers' resources, which messages mention as `@server:resource`."""

from __future__ import annotations

from urllib.parse import parse_qsl

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
        """Return the URIs of the known resources, and templates such as `notes?day=`.

        Starts no server.
        """
        listing = KnownServer(self._server.config).listing
        if listing is None:
            return []
        uris = [resource.uri for resource in listing.resources]
        return [*uris, *(template.example for template in listing.templates)]

    def read(self, name: str) -> str:
        """Return the text of a resource.

        Args:
            name: its URI, its name if the server has listed it, or the name of a template with its
                arguments as in the query of a URL: `notes?day=monday&year=2026`.

        Raises:
            UsageError: it has no text, or an argument is missing or unknown.
            McpServerError: the server failed, or has no such resource.
        """
        uri = self._uri(name)
        text = resource_text(self._server.read_resource(uri))
        if not text:
            raise UsageError(f"{one_line(uri, 100)} has no text.")
        return text

    def _uri(self, name: str) -> str:
        listing = KnownServer(self._server.config).listing
        if listing is None or any(each.uri == name for each in listing.resources):
            return name
        for resource in listing.resources:
            if resource.name == name:
                return resource.uri
        written, _, query = name.partition("?")
        for template in listing.templates:
            if written == template.name or name == template.uri:
                values = (
                    dict(parse_qsl(query, keep_blank_values=True)) if name != template.uri else {}
                )
                return template.fill_in(values)
        return name
