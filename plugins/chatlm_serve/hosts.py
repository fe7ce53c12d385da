"""Which addresses are this machine's own; knows no server."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from chatlm import UsageError


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host.lower() == "localhost"


def names_loopback(header: str) -> bool:
    """Whether a `Host` header names this machine itself.

    A browser that was lured to a name which suddenly means 127.0.0.1 (DNS rebinding) still sends
    that name.
    """
    with suppress(ValueError):
        return is_loopback(urlsplit(f"//{header}").hostname or "")
    return False


def bound(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that what is wrong with the address shows at once.

    Raises:
        UsageError: the host is not this machine's, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(
            f"There is no address {host!r}.", hint="This machine's own is 127.0.0.1."
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"Nothing can listen at {url(host, port)}: {error.strerror}.",
            hint="Choose another port: --port 0 takes any that is free.",
        ) from error
    return listener


def url(host: str, port: int) -> str:
    """The address as it is typed into a browser."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
