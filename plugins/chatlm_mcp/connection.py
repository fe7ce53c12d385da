"""One live connection to a server, in an event loop and thread of its own."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from chatlm import __version__, one_line
from chatlm_mcp.limits import McpServerError
from chatlm_mcp.server_config import ServerConfig
from chatlm_mcp.server_log import ServerLog
from chatlm_mcp.server_requests import ServerRequests

if TYPE_CHECKING:
    from mcp import Client
    from mcp.client._transport import TransportStreams
    from mcp_types import LoggingMessageNotificationParams

T = TypeVar("T")

log = logging.getLogger("chatlm.plugins.mcp")

CLOSE_SECONDS = 5.0
"""For a server to be stopped; its processes are killed well before."""

LISTEN_AGAIN_SECONDS = 30.0
"""Pause before a server is asked again for news of changes, after it ended them."""

_POLL_SECONDS = 0.05

for _name in ("mcp", "client"):  # the SDK's loggers would write to the terminal, over the screen
    logging.getLogger(_name).addHandler(logging.NullHandler())


class ConnectionLost(McpServerError):
    """The connection cannot be used any longer; another one has to be opened."""


class RequestRefused(McpServerError):
    """The server answered with an error; the connection goes on."""


class RequestCancelled(McpServerError):
    """Nobody waits for the answer any longer; the connection goes on."""


class Connection:
    """One run of a server, or one session with a server behind a URL.

    Args:
        server: with its variables filled in.
        server_log: gets the server's own messages.
        requests: answers what the server asks.
        on_change: called, in the connection's thread, when the server says that its tools,
            resources or prompts have changed.
    """

    def __init__(
        self,
        server: ServerConfig,
        server_log: ServerLog,
        requests: ServerRequests,
        on_change: Callable[[], None],
    ) -> None:
        self._server = server
        self._log = server_log
        self._requests = requests
        self._on_change = on_change
        self._limits: set[asyncio.Timeout] = set()
        """Of the requests that run."""
        self._client: Client | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._task: asyncio.Task[Any] | None = None
        """Connects, then waits for the end."""
        self._ready: Future[None] = Future()
        self._thread = Thread(
            target=self._run, name=f"chatlm-mcp-{one_line(server.name, 20)}", daemon=True
        )
        self.end_reason = ""
        """Why the connection ended by itself; empty while it has not."""

    def open(self, seconds: float) -> None:
        """Connect.

        Raises:
            ConnectionLost: the server cannot be started or reached, or is no MCP server.
        """
        self._seconds = seconds
        self._thread.start()
        done, _ = wait([self._ready], seconds + CLOSE_SECONDS)
        if not done:
            raise ConnectionLost(f"it did not start within {seconds:g} seconds")
        self._ready.result()

    @property
    def client(self) -> Client:
        """The SDK's client; use it in coroutines of `request` only."""
        if self._client is None:
            raise ConnectionLost(self.end_reason or "it is not connected")
        return self._client

    @property
    def is_open(self) -> bool:
        """Whether requests can be made."""
        return self._client is not None and not self.end_reason and self._thread.is_alive()

    def request(
        self,
        call: Callable[[Client], Awaitable[T]],
        seconds: float,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> T:
        """Make a request and wait for its answer, in any thread.

        Args:
            call: makes it, in the connection's event loop.
            seconds: time limit; while the user answers a question of the server, it stands still.
            cancelled: asked some times a second; the server is told if it becomes true.

        Raises:
            RequestRefused: the server answered with an error.
            RequestCancelled: `cancelled` became true.
            ConnectionLost: the server ended, did not answer in time, or sent something invalid.
        """
        loop, client = self._loop, self._client
        if loop is None or client is None or not self.is_open:
            raise ConnectionLost(self.end_reason or "it is not connected")

        async def limited() -> T:
            async with asyncio.timeout(seconds) as limit:
                self._limits.add(limit)
                try:
                    return await call(client)
                finally:
                    self._limits.discard(limit)

        coroutine = limited()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError as error:  # the loop was closed this instant
            coroutine.close()
            raise ConnectionLost(self.end_reason or "it is not connected") from error
        while not wait([future], _POLL_SECONDS).done:
            if cancelled():
                future.cancel()
                raise RequestCancelled("it was cancelled")
            if not self._thread.is_alive():
                raise ConnectionLost(self.end_reason or "the connection ended")
        try:
            return future.result()
        except BaseException as error:
            raise self._explain(error, seconds) from error

    def close(self) -> None:
        """End the connection, and the server's processes if it runs here; also while it opens."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it ended meanwhile
                self._loop.call_soon_threadsafe(self._finish)
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # a server must not end more than its own thread
            self.end_reason = self.end_reason or self._explain(error, self._seconds).message
            if not self._ready.done():
                self._ready.set_exception(self._explain(error, self._seconds))
            else:
                log.info("MCP server %s: %s", self._server.name, self.end_reason)
        finally:
            self._client = None

    async def _serve(self) -> None:
        from mcp import Client
        from mcp_types import Implementation

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._task = asyncio.current_task()
        self._requests.pause = self._pause_limits
        client = Client(
            self._transport(),
            client_info=Implementation(name="chatlm", version=__version__),
            message_handler=self._handle_message,
            # without a callback for sampling, servers are told that there is none
            list_roots_callback=self._requests.list_roots,
            elicitation_callback=self._requests.elicit,
            logging_callback=self._write_log,
            log_level="info",
            cache=None,
        )
        async with asyncio.timeout(self._seconds):
            await client.__aenter__()
        following = asyncio.create_task(self._follow_changes(client))
        try:
            self._client = client
            self._ready.set_result(None)
            await self._stop.wait()
        finally:
            self._client = None
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await client.__aexit__(None, None, None)

    async def _follow_changes(self, client: Client) -> None:
        """Hear of changed lists where the protocol has no notifications of them without asking."""
        from mcp.client.subscriptions import SubscriptionLost
        from mcp_types.version import MODERN_PROTOCOL_VERSIONS

        has = client.server_capabilities
        tools = bool(has.tools and has.tools.list_changed)
        prompts = bool(has.prompts and has.prompts.list_changed)
        resources = bool(has.resources and has.resources.list_changed)
        if client.protocol_version not in MODERN_PROTOCOL_VERSIONS or not (
            tools or prompts or resources
        ):
            return
        try:
            while True:
                with suppress(SubscriptionLost):
                    async with client.listen(
                        tools_list_changed=tools,
                        prompts_list_changed=prompts,
                        resources_list_changed=resources,
                    ) as changes:
                        async for _ in changes:
                            self._on_change()
                await asyncio.sleep(LISTEN_AGAIN_SECONDS)
                self._on_change()  # something may have changed meanwhile
        except Exception as error:  # whatever the server answers, its tools can be called
            log.info("MCP server %s: no news of changes: %s", self._server.name, error)

    async def _write_log(self, params: LoggingMessageNotificationParams) -> None:
        data = params.data if isinstance(params.data, str) else json.dumps(params.data)
        self._log.write(f"[{params.level}] {one_line(data, 1000)}\n".encode("utf-8", "replace"))

    @contextmanager
    def _pause_limits(self) -> Iterator[None]:
        """Stop the clock of the requests that run now, in the connection's event loop."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        paused = [(limit, when) for limit in self._limits if (when := limit.when()) is not None]
        for limit, _ in paused:
            limit.reschedule(None)
        try:
            yield
        finally:
            waited = loop.time() - started
            for limit, when in paused:
                if limit in self._limits:
                    limit.reschedule(when + waited)

    def _transport(self) -> AbstractAsyncContextManager[TransportStreams]:
        if self._server.url:
            return _connect_http(self._server)
        from chatlm_mcp.stdio_transport import run_server

        return run_server(self._server, self._log, self._end)

    def _finish(self) -> None:
        if self._client is None and not self._ready.done() and self._task is not None:
            self.end_reason = self.end_reason or "it was ended while it started"
            self._task.cancel()
        elif self._stop is not None:
            self._stop.set()

    def _end(self, reason: str) -> None:
        self.end_reason = self.end_reason or reason
        if self._stop is not None:
            self._stop.set()

    async def _handle_message(self, message: Any) -> None:
        if type(message).__name__.endswith("ListChangedNotification"):
            self._on_change()

    def _explain(self, error: BaseException, seconds: float) -> McpServerError:
        """Return an error for the user, from any that the SDK or a transport raises."""
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED
        from pydantic import ValidationError

        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, McpServerError):
            return error
        if self.end_reason:
            return ConnectionLost(self.end_reason)
        if isinstance(error, TimeoutError):
            started = self._ready.done()
            what = "answer" if started else "start and introduce itself"
            return ConnectionLost(f"it did not {what} within {seconds:g} seconds")
        if isinstance(error, MCPError) and error.code != CONNECTION_CLOSED:
            return RequestRefused(f"it answered with the error: {one_line(error.message, 300)}")
        if isinstance(error, ValidationError):
            return RequestRefused("its answer does not follow the protocol")
        if isinstance(error, FileNotFoundError):
            hint = "Install Node.js." if self._server.command in ("npx", "node") else None
            hint = "Install uv." if self._server.command in ("uvx", "uv") else hint
            where = f"the folder {self._server.cwd}" if self._server.cwd else "the program"
            return ConnectionLost(
                f"{where} does not exist: {one_line(str(error.filename), 100)}",
                hint or "Check command and cwd in mcp.json.",
            )
        if isinstance(error, MCPError):
            return ConnectionLost("the connection was closed")
        reason = one_line(str(error), 200).rstrip(".") or type(error).__name__
        return ConnectionLost(f"the connection failed: {reason}")


@asynccontextmanager
async def _connect_http(server: ServerConfig) -> AsyncIterator[TransportStreams]:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    from chatlm_mcp.http_limits import LimitedTransport
    from chatlm_mcp.limits import MAX_MESSAGE_BYTES
    from chatlm_mcp.sign_in import stored_sign_in

    async with (
        httpx2.AsyncClient(
            auth=stored_sign_in(server),
            headers=dict(server.headers),
            timeout=httpx2.Timeout(30.0, read=None),
            transport=LimitedTransport(),
        ) as http_client,
        streamable_http_client(
            server.url, http_client=http_client, max_sse_event_size=MAX_MESSAGE_BYTES
        ) as streams,
    ):
        yield streams
