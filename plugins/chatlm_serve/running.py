"""Runs the endpoint until it is told to end."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from chatlm_serve.api import Api

PATIENCE = 5
"""Seconds for streams to end in when the server is told to."""


class Server(uvicorn.Server):
    """Ends streams when it is told to end, and then is done.

    Args:
        api: what is served.
        loopback: see `Guard`.
        token: the same.
    """

    def __init__(self, api: Api, *, loopback: bool, token: str) -> None:
        super().__init__(
            uvicorn.Config(
                api.app(loopback=loopback, token=token),
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=PATIENCE,
            )
        )
        self._api = api

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer until SIGINT or SIGTERM, and return when the engine stands still."""
        try:
            super().run(sockets)
        finally:
            self._api.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        self._api.stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, but without raising the signal once more at the end."""
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
