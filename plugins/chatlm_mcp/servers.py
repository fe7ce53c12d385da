"""The servers of mcp.json, or those of one session, with their lists."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Lock, Thread

from chatlm import ChatlmError, UsageError, one_line
from chatlm_mcp.listing import KnownServer, Listing
from chatlm_mcp.server import Server
from chatlm_mcp.server_config import ServerConfig, config_path, load_servers
from chatlm_mcp.settings import Settings

log = logging.getLogger("chatlm.plugins.mcp")

FIRST_LIST_SECONDS = 8.0
"""How long a server that has never been listed may delay a chat; its tools come with the next."""

CHANGE_SECONDS = 1.0
"""Between two listings of a server that announces changes."""


class Servers:
    """Several servers. Thread-safe; nothing is started before it is needed.

    Args:
        settings: time limits.
        folders: returns the folders that the user lets tools use.
        configs: the servers; None for those of mcp.json, which is read again when it changed.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        folders: Callable[[], tuple[Path, ...]] = tuple,
        configs: Sequence[ServerConfig] | None = None,
    ) -> None:
        self._configs = configs
        self._settings = settings or Settings()
        self._folders = folders
        self._lock = Lock()
        self._servers: dict[str, Server] = {}
        self._stamp: tuple[int, int] | None = None
        self._listed: dict[str, tuple[int, Listing]] = {}
        """The lists that a server gave in its newest run, by name, with the number of the run."""
        self._listing: dict[str, Future[Listing]] = {}
        """First lists that are being asked for."""
        self._changing: set[str] = set()
        """Servers whose changed lists are being asked for."""

    def all(self) -> list[Server]:
        """Return the servers in the order of the file or the session.

        Raises:
            ChatlmError: the file cannot be read or is not JSON.
        """
        stamp = _file_stamp() if self._configs is None else (0, 0)
        gone: list[Server] = []
        with self._lock:
            if stamp != self._stamp:
                configs = load_servers() if self._configs is None else self._configs
                kept = {
                    config.name: self._servers[config.name]
                    for config in configs
                    if config.name in self._servers and self._servers[config.name].config == config
                }
                gone = [each for name, each in self._servers.items() if name not in kept]
                self._servers = {
                    config.name: kept.get(config.name) or self._make_server(config)
                    for config in configs
                }
                self._stamp = stamp
            found = list(self._servers.values())
        _close_all(gone)
        return found

    def usable(self) -> list[Server]:
        """Return the servers that are on; none if the file cannot be read, which is logged."""
        try:
            servers = self.all()
        except ChatlmError as error:
            log.warning("%s", error)
            return []
        return [each for each in servers if not (each.config.problem or each.config.disabled)]

    def get(self, name: str) -> Server:
        """Return a server by name.

        Raises:
            UsageError: there is none.
            ChatlmError: as `all`.
        """
        for server in self.all():
            if server.config.name == name:
                return server
        raise UsageError(
            f"There is no MCP server {one_line(name, 60)}.", hint="List them: chatlm mcp list"
        )

    def known_listings(self, seconds: float = 0.0) -> list[tuple[Server, Listing]]:
        """Return each usable server with its lists as they were last seen.

        Args:
            seconds: how long to wait for servers that have never been listed; with 0 they are
                left out and not started.
        """
        servers = self.usable()
        if seconds:
            new = [each for each in servers if KnownServer(each.config).listing is None]
            wait([self._begin_listing(server) for server in new], seconds)
        listings = ((server, KnownServer(server.config).listing) for server in servers)
        return [(server, listing) for server, listing in listings if listing is not None]

    def live_listing(
        self, server: Server, cancelled: Callable[[], bool] = lambda: False
    ) -> Listing:
        """Return the lists of the server as it runs now, and remember them.

        Raises:
            McpServerError: it cannot be started, or did not answer properly.
        """
        health = server.health()
        name = server.config.name
        run, listing = self._listed.get(name, (0, None))
        if (
            listing is None
            or run != health.starts
            or health.state != "running"
            or server.listing_outdated
        ):
            listing = server.list_all(cancelled)
            self._listed[name] = (server.health().starts, listing)
            KnownServer(server.config).remember(listing)
        return listing

    def close(self) -> None:
        """End all servers."""
        with self._lock:
            servers, self._servers, self._stamp = list(self._servers.values()), {}, None
        _close_all(servers)

    def _make_server(self, config: ServerConfig) -> Server:
        return Server(config, self._settings, folders=self._folders, on_change=self._list_again)

    def _list_again(self, server: Server) -> None:
        """List a server whose lists have changed, in the background, while it runs."""
        name = server.config.name
        with self._lock:
            if name in self._changing:
                return
            self._changing.add(name)

        def is_done() -> bool:
            with self._lock:
                if server.listing_outdated and server.health().state == "running":
                    return False
                self._changing.discard(name)
                return True

        def work() -> None:
            time.sleep(CHANGE_SECONDS)
            while not is_done():
                try:
                    self.live_listing(server)
                except ChatlmError as error:
                    log.warning("MCP server %s: %s", name, error)
                time.sleep(CHANGE_SECONDS)

        Thread(target=work, name="chatlm-mcp-change", daemon=True).start()

    def _begin_listing(self, server: Server) -> Future[Listing]:
        """List a server in the background, once at a time."""
        name = server.config.name
        with self._lock:
            if (running := self._listing.get(name)) is not None and not running.done():
                return running
            future: Future[Listing] = Future()
            self._listing[name] = future

        def work() -> None:
            try:
                future.set_result(self.live_listing(server))
            except Exception as error:  # whatever a server does, the chat goes on without it
                log.warning("MCP server %s: %s", name, error)
                future.set_exception(error)

        Thread(target=work, name="chatlm-mcp-list", daemon=True).start()
        return future


def _file_stamp() -> tuple[int, int] | None:
    try:
        stat = config_path().stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _close_all(servers: Iterable[Server]) -> None:
    threads = [Thread(target=server.close, daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
