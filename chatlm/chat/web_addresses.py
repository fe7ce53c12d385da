"""Which addresses may be connected to: public ones, and servers that the user named.

The name of a server is looked up here, once for each connection, and the connection goes to an
address that was checked. A name that leads elsewhere the next time, and a redirection to another
server, are therefore checked like the first.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httpcore2

from chatlm.errors import UsageError
from chatlm.text import one_line

Lookup = Callable[[str, int], Sequence[str]]
"""`(host, port) -> addresses`"""


class AddressRefused(UsageError):
    """A server is not public, and the user did not name it."""


_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that lead to the IPv4 address in their last 32 bits."""

_SPECIAL = ipaddress.ip_network("192.0.0.0/24")
"""For protocols between routers; older versions of Python count a part of it as public."""


def is_public(text: str) -> bool:
    """Whether an address belongs to a server on the internet.

    Args:
        text: an IPv4 or IPv6 address.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.teredo:
            return False
        if inner is not None:
            return is_public(str(inner))
        if address.is_site_local:
            return False
    elif address in _SPECIAL:
        return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
    )


def look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a server.

    Raises:
        OSError: its name is not known.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class CheckedConnections(httpcore2.NetworkBackend):
    """Connects to public servers, and to those that the user named.

    Args:
        named: `HOST:PORT` of servers that need not be public.
        lookup: finds the addresses of a name.
    """

    def __init__(self, named: Iterable[str] = (), lookup: Lookup = look_up) -> None:
        self._named = {each.casefold() for each in named}
        self._lookup = lookup
        self._plain = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect to an address that was checked.

        Raises:
            AddressRefused: one of the server's addresses is not public.
            httpcore2.ConnectError: the name is not known, or nothing answers.
        """
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            addresses = self._lookup(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{one_line(host, 100)}: {error}") from None
        if shown.casefold() not in self._named:
            for address in addresses:
                if not is_public(address):
                    raise AddressRefused(
                        f"{one_line(shown, 100)} is not a public address, so it is not read.",
                        hint="The user can name servers of their own in plugins.tools.web_hosts.",
                    )
        failure: Exception = httpcore2.ConnectError(f"{one_line(host, 100)} has no address")
        for address in addresses[:4]:
            try:
                return self._plain.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.NetworkStream:
        """Refuse it: nothing here needs one."""
        raise AddressRefused("Sockets of this machine are not read.")
