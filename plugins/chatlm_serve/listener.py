"""The listening socket of the server, and its URL."""

from __future__ import annotations

import socket

from chatlm import UsageError


def bind_socket(host: str, port: int, hint: str = "") -> socket.socket:
    """Bind a socket, so that a wrong address is reported at once.

    Args:
        host: name or address.
        port: 0 picks a free one.
        hint: what to do if the port is taken; empty for the usual advice.

    Raises:
        UsageError: the host is unknown or not an address of this machine, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(
            f"Unknown address {host!r}.", hint="Use 127.0.0.1 for this machine."
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"Cannot listen at {http_url(host, port)}: {error.strerror}.",
            hint=hint or "Choose another port; --port 0 picks a free one.",
        ) from error
    return listener


def http_url(host: str, port: int) -> str:
    """Return the URL of an address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
