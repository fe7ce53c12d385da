"""A server as chatlm sees it: started when it is needed, and again after it failed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from chatlm import ChatlmError, ToolContext, UsageError, one_line
from chatlm_mcp.connection import (
    Connection,
    ConnectionLost,
    RequestCancelled,
    RequestRefused,
)
from chatlm_mcp.limits import MAX_LISTED, MAX_PAGES, McpServerError
from chatlm_mcp.listing import Listing
from chatlm_mcp.server_config import ServerConfig, config_path
from chatlm_mcp.server_log import ServerLog
from chatlm_mcp.server_requests import ServerRequests
from chatlm_mcp.settings import Settings

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult, GetPromptResult, ReadResourceResult

T = TypeVar("T")

State = Literal["off", "not started", "starting", "running", "failed"]

MAX_PAUSE_SECONDS = 60.0
"""Longest pause before a server that keeps failing is started again."""


@dataclass(frozen=True)
class Health:
    """The state of a server at one moment."""

    state: State
    reason: str = ""
    """Why it is off or failed."""
    starts: int = 0
    calls: int = 0
    last_seconds: float | None = None
    """How long the newest request took."""
    wait_seconds: float = 0.0
    """Time until it is started again on its next use, after it failed several times."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "state": self.state,
            "reason": self.reason or None,
            "starts": self.starts,
            "calls": self.calls,
            "last_seconds": self.last_seconds,
        }


class Server:
    """One server. Thread-safe; requests may be made at the same time.

    Args:
        config: how it is reached.
        settings: time limits.
        clock: seconds that never go back; tests give their own.
        folders: returns the folders that the user lets tools use.
        on_change: called, in another thread, when the server says that its lists have changed.
    """

    def __init__(
        self,
        config: ServerConfig,
        settings: Settings | None = None,
        clock: Callable[[], float] = time.monotonic,
        folders: Callable[[], tuple[Path, ...]] = tuple,
        on_change: Callable[[Server], None] = lambda _: None,
    ) -> None:
        self.config = config
        self.settings = settings or Settings()
        self._requests = ServerRequests(config, folders)
        self._on_change = on_change
        self.log = ServerLog(config.name)
        self.listing_outdated = False
        """Whether the server said that its tools, resources or prompts have changed."""
        self._clock = clock
        self._lock = RLock()
        self._start_lock = Lock()
        """Held while a connection is opened, so that there is one at most."""
        self._connection: Connection | None = None
        self._opening: Connection | None = None
        self._failures = 0
        """Failures in a row."""
        self._retry_at = 0.0
        self._reason = ""
        self._starts = self._calls = 0
        self._last_seconds: float | None = None

    def health(self) -> Health:
        """Return its state; never waits."""
        state: State = "not started"
        reason = self.config.problem or self._reason
        connection = self._connection
        if self.config.problem or self.config.disabled:
            state = "failed" if self.config.problem else "off"
        elif self._opening is not None:
            state, reason = "starting", ""
        elif connection is not None and connection.is_open:
            state, reason = "running", ""
        elif connection is not None or self._failures:
            state = "failed"
            reason = (connection.end_reason if connection else "") or reason
        wait = max(0.0, self._retry_at - self._clock()) if state == "failed" else 0.0
        return Health(state, reason, self._starts, self._calls, self._last_seconds, wait)

    def list_all(self, cancelled: Callable[[], bool] = lambda: False) -> Listing:
        """Ask for tools, resources and prompts, as far as the server has such.

        Raises:
            McpServerError: it cannot be started, or did not answer properly.
        """
        self.listing_outdated = False

        async def ask(client: Client) -> Listing:
            has = client.server_capabilities
            resources = await _pages(client.list_resources, "resources") if has.resources else []
            return Listing.of(
                tools=await _pages(client.list_tools, "tools") if has.tools else [],
                resources=resources,
                templates=await _resource_templates(client) if has.resources else [],
                prompts=await _pages(client.list_prompts, "prompts") if has.prompts else [],
                version=_describe_version(client),
            )

        return self._request(ask, cancelled)

    def call_tool(
        self,
        name: str,
        arguments: dict[str, Any],
        on_progress: Callable[[float, float | None, str | None], None] = lambda *_: None,
        cancelled: Callable[[], bool] = lambda: False,
        context: ToolContext | None = None,
    ) -> CallToolResult:
        """Call a tool.

        Args:
            name: as the server calls it.
            arguments: for the tool; the server checks them.
            on_progress: called with the steps done, all steps and a text, in another thread.
            cancelled: asked some times a second.
            context: where the server may ask the user, and whose folders it is told; None for
                nowhere.

        Raises:
            RequestCancelled: `cancelled` became true; the server was told.
            McpServerError: the server failed or refuses the call.
        """

        async def report(progress: float, total: float | None, message: str | None) -> None:
            on_progress(progress, total, message)

        async def call(client: Client) -> CallToolResult:
            await self._tell_folders(client)
            return await client.call_tool(name, arguments, progress_callback=report)

        with self._requests.during(context) if context is not None else nullcontext():
            return self._request(call, cancelled)

    async def _tell_folders(self, client: Client) -> None:
        """Tell the server if a call has other folders than those it knows; newer ones ask anew."""
        from mcp_types.version import MODERN_PROTOCOL_VERSIONS

        told = self._requests.told_folders
        if told is None or client.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return
        if told != self._requests.folders():
            from mcp_types import RootsListChangedNotification

            await client.session.send_notification(RootsListChangedNotification())

    def read_resource(self, uri: str) -> ReadResourceResult:
        """Read a resource. Raises as `list_all`."""
        return self._request(lambda client: client.read_resource(uri))

    def get_prompt(self, name: str, arguments: dict[str, str]) -> GetPromptResult:
        """Fill in a prompt. Raises as `list_all`."""
        return self._request(lambda client: client.get_prompt(name, arguments))

    def restart(self) -> None:
        """End the connection; the next request starts the server at once."""
        self.close()
        with self._lock:
            self._failures, self._retry_at, self._reason = 0, 0.0, ""

    def close(self) -> None:
        """End the connection and the server's processes."""
        with self._lock:
            connections = (self._connection, self._opening)
            self._connection = None
        for connection in connections:
            if connection is not None:
                connection.close()

    def _request(
        self,
        call: Callable[[Client], Awaitable[T]],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> T:
        connection = self._connected()
        started = self._clock()
        try:
            result = connection.request(call, self.settings.call_seconds, cancelled)
        except RequestCancelled:
            raise
        except ConnectionLost as error:
            self._record_failure(connection, error.message)
            raise self._error(error) from error
        except McpServerError as error:
            raise self._error(error) from error
        self._failures = 0
        self._calls += 1
        self._last_seconds = self._clock() - started
        return result

    def _connected(self) -> Connection:
        """Return the open connection, or open one unless it failed too recently."""
        with self._start_lock:
            if self.config.problem:
                raise McpServerError(f"The MCP server {self.config.name} {self.config.problem}.")
            if self.config.disabled:
                raise McpServerError(
                    f"The MCP server {self.config.name} is switched off.",
                    hint='Its entry in mcp.json has "disabled": true.',
                )
            if self._connection is not None and self._connection.is_open:
                return self._connection
            if self._connection is not None:  # it ended between two requests
                self._record_failure(self._connection, self._connection.end_reason)
            if (wait := self._retry_at - self._clock()) > 0:
                raise McpServerError(
                    f"The MCP server {self.config.name} failed {self._failures} times: "
                    f"{self._reason}. It is not started again for {wait:.0f} seconds.",
                    hint="Look at its log: /mcp",
                )
            return self._open()

    def _open(self) -> Connection:
        require_sdk()
        try:
            ready = self.config.expanded()
        except ChatlmError as error:  # a variable that is not set
            self._reason = error.message
            raise
        connection = Connection(ready, self.log, self._requests, self._note_change)
        self._starts += 1
        self._opening = connection
        try:
            connection.open(self.settings.start_seconds)
        except McpServerError as error:
            self._record_failure(connection, error.message)
            raise self._error(error) from error
        finally:
            self._opening = None
        self._connection = connection
        return connection

    def _record_failure(self, connection: Connection, reason: str) -> None:
        """Close a connection that failed; the second failure in a row begins the pauses."""
        with self._lock:
            if self._connection is connection:
                self._connection = None
            self._failures += 1
            self._reason = reason or "the connection ended"
            if self._failures > 1:
                pause = min(2.0 ** (self._failures - 1), MAX_PAUSE_SECONDS)
                self._retry_at = self._clock() + pause
            self.log.write(f"[chatlm] {self._reason}\n".encode())
        connection.close()

    def _note_change(self) -> None:
        self.listing_outdated = True
        self._on_change(self)

    def _error(self, error: McpServerError) -> McpServerError:
        text = f"The MCP server {self.config.name} failed: {error.message}."
        if not isinstance(error, ConnectionLost):
            text = f"The MCP server {self.config.name}: {error.message}."
        hint = "Look at its log: /mcp, or chatlm mcp test"
        if isinstance(error, RequestRefused):  # it works, and has said why
            hint = ""
        elif not self.config.in_file:
            hint = "Its command or address comes from the program that started this session."
        elif self.config.url:
            hint = (
                f"Its url and headers are in {config_path()}. If it wants you to sign in: "
                f"chatlm mcp login {self.config.name}"
            )
        return type(error)(text, error.hint or hint)


def require_sdk() -> None:
    """Check that the SDK is installed.

    Raises:
        UsageError: it is not.
    """
    if find_spec("mcp") is None:
        raise UsageError(
            "MCP needs a package that is not installed.",
            hint="Install it: pip install 'chatlm[mcp]'",
        )


async def _pages(ask: Callable[..., Awaitable[Any]], kind: str) -> list[Any]:
    """Return all entries of a listing, up to a limit: a server may have pages without end."""
    found: list[Any] = []
    cursor = None
    for _ in range(MAX_PAGES):
        page = await ask(cursor=cursor)
        found += getattr(page, kind)
        cursor = page.next_cursor
        if cursor is None or len(found) >= MAX_LISTED:
            break
    return found[:MAX_LISTED]


async def _resource_templates(client: Client) -> list[Any]:
    """Return the templates of resources; many servers with resources do not know the request."""
    from mcp import MCPError
    from mcp_types import METHOD_NOT_FOUND

    try:
        return await _pages(client.list_resource_templates, "resource_templates")
    except MCPError as error:
        if error.code != METHOD_NOT_FOUND:
            raise
        return []


def _describe_version(client: Client) -> str:
    info = client.server_info
    return one_line(f"{info.name} {info.version}", 60) if info else ""
