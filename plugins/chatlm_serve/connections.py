"""Limits on connections: how many, and how long a client may take to send its request.

uvicorn has neither. Without them, clients that send a byte now and then take all file descriptors.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(f"chatlm.plugins.{__name__}")

BACKLOG = 128
"""Connections that the kernel accepts ahead, and that asyncio takes over in one go."""

RESERVED_DESCRIPTORS = 64
"""File descriptors for everything else: the model, the database, standard streams."""

ERROR_INTERVAL = 60.0
"""Seconds between two lines in the log about connections that cannot be accepted."""

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def connection_limit(wanted: int) -> int:
    """Return how many connections to keep open, fewer than wanted if descriptors are scarce."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, descriptors - RESERVED_DESCRIPTORS - BACKLOG))


def limited_protocol(max_connections: int, receive_seconds: float) -> type[H11Protocol]:
    """Return a protocol for uvicorn that enforces both limits.

    Args:
        max_connections: maximum number of open connections; more are refused at once.
        receive_seconds: time for the headers and the body of a request.
    """

    class LimitedProtocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(  # type: ignore[override]  # as in uvicorn
            self, transport: asyncio.Transport
        ) -> None:
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                self._refuse(503, b"The server has too many open connections. Try again later.")
            else:
                self._update_deadline()

        def data_received(self, data: bytes) -> None:
            if not self.transport.is_closing():
                super().data_received(data)
                self._update_deadline()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel_deadline()
            super().connection_lost(exc)

        def _update_deadline(self) -> None:
            """Let the time run while a request is incomplete, however many pieces come."""
            receiving = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
            if not receiving:
                self._cancel_deadline()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(receive_seconds, self._expire)

        def _cancel_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _expire(self) -> None:
            self._refuse(408, b"The request did not arrive in time.")

        def _refuse(self, status: int, message: bytes) -> None:
            """Answer if no answer has begun, and close the connection."""
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                headers = [
                    (b"content-type", b"text/plain; charset=utf-8"),
                    (b"content-length", str(len(message)).encode()),
                    (b"connection", b"close"),
                ]
                for event in (
                    h11.Response(status_code=status, headers=headers),
                    h11.Data(data=message),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return LimitedProtocol


def quiet_accept_errors(
    now: Callable[[], float] = time.monotonic,
) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Return an exception handler for the event loop that does not fill the log.

    When no descriptor is left, asyncio pauses for a second, but reports every connection that waits
    with a traceback. This handler logs one line a minute instead.

    Args:
        now: a clock in seconds.
    """
    logged_at = -ERROR_INTERVAL

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal logged_at
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _OUT_OF_RESOURCES:
            loop.default_exception_handler(context)
        elif now() - logged_at >= ERROR_INTERVAL:
            logged_at = now()
            log.error("new connections have to wait: %s", error.strerror)

    return handle
