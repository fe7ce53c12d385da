"""The HTTP server of the API, with graceful shutdown."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from chatlm_serve.api import Api
from chatlm_serve.connections import (
    BACKLOG,
    connection_limit,
    limited_protocol,
    quiet_accept_errors,
)

SHUTDOWN_SECONDS = 5
"""Time for open streams to end on shutdown."""

KEEP_ALIVE_SECONDS = 20
"""How long a connection is kept that no request uses. Clients close theirs earlier (httpx: 5 s,
aiohttp: 15 s), so that none sends a request on one that is just being closed."""


SWITCH_SECONDS = 0.0005
"""How long a thread that computes in Python keeps others waiting, a tenth of Python's default: an
engine's thread lets go of the interpreter several times for each token, and a stream waits for all
of them while a model is loaded or a long chat is read."""


@contextmanager
def short_pauses() -> Iterator[None]:
    """Let Python interrupt the streams for no longer than it must.

    Threads take turns more often, and the garbage collector leaves alone what is there already,
    such as the models, which it would go through again and again.
    """
    interval = sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()


class ApiServer(uvicorn.Server):
    """An HTTP server that ends open streams on shutdown.

    Args:
        api: the API to serve.
        loopback: see `GuardMiddleware`.
        token: see `GuardMiddleware`.
        max_connections: maximum number of open connections; fewer if descriptors are scarce.
        receive_seconds: time for a client to send its request.
    """

    def __init__(
        self,
        api: Api,
        *,
        loopback: bool,
        token: str,
        max_connections: int,
        receive_seconds: float,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                api.app(loopback=loopback, token=token),
                http=limited_protocol(connection_limit(max_connections), receive_seconds),
                backlog=BACKLOG,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )
        self._api = api

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until SIGINT or SIGTERM, and return once the engine is idle."""
        with short_pauses():
            try:
                super().run(sockets)
            finally:
                self._api.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening."""
        asyncio.get_running_loop().set_exception_handler(quiet_accept_errors())
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cancel all replies, then shut down."""
        self._api.stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals like uvicorn, but do not raise them again at the end."""
        previous = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
