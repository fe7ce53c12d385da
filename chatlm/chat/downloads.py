"""Download files of the web: redirections, and limits of size and time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpcore2

from chatlm.chat.web_addresses import AddressRefused, CheckedConnections
from chatlm.errors import UsageError
from chatlm.text import one_line

_MAX_REDIRECTIONS = 5
_SECONDS = 20.0


@dataclass(frozen=True)
class DownloadRules:
    """What may be downloaded."""

    what: str
    """Such as `text`, for errors."""
    accept: str
    """Header `Accept`."""
    is_accepted: Callable[[str], bool]
    """Whether a media type, such as `text/html`, is accepted."""
    default_type: str
    """Content type where the server names none."""
    max_bytes: int


@dataclass(frozen=True)
class Download:
    """A downloaded file."""

    address: str
    """Where it was found, after redirections."""
    media_type: str
    content_type: str
    """The media type with its parameters."""
    content: bytes


def check_address(address: str) -> str:
    """Return an address in a form that can be requested.

    Raises:
        UsageError: it is none of the web.
    """
    try:
        parts = urlsplit(address.strip())
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{one_line(address, 200)} is no address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{one_line(address, 200)} is no address: it must start with https://")
    if parts.username is not None or parts.password is not None:
        raise UsageError("An address with a user name or password is not requested.")
    host = (
        parts.hostname.encode("idna").decode() if not parts.hostname.isascii() else parts.hostname
    )
    place = f"[{host}]" if ":" in host else host
    path = re.sub(
        r"[^\x21-\x7e]",
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()),
        urlunsplit(("", "", parts.path or "/", parts.query, "")),
    )
    return f"{parts.scheme}://{place}{f':{port}' if port else ''}{path}"


def download(
    address: str,
    rules: DownloadRules,
    backend: CheckedConnections,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Download:
    """Download a file.

    Args:
        address: starts with http:// or https://.
        rules: what it may be.
        backend: makes the connections.
        check_cancelled: raises when nobody waits any longer.

    Raises:
        UsageError: it cannot be read; the message says why.
    """
    import httpx2

    deadline = time.monotonic() + _SECONDS
    current = check_address(address)
    with httpcore2.ConnectionPool(
        ssl_context=httpx2.create_ssl_context(trust_env=False), network_backend=backend
    ) as pool:
        for _ in range(_MAX_REDIRECTIONS + 1):
            check_cancelled()
            try:
                found = _request(pool, current, rules, deadline, check_cancelled)
            except AddressRefused:
                raise
            except (httpcore2.TimeoutException, TimeoutError):
                raise UsageError(
                    f"{current} did not answer within {_SECONDS:.0f} seconds."
                ) from None
            except (
                httpcore2.NetworkError,
                httpcore2.ProtocolError,
                httpcore2.UnsupportedProtocol,
                OSError,
            ) as error:
                raise UsageError(f"{current} cannot be read: {one_line(str(error), 200)}") from None
            if isinstance(found, Download):
                return found
            current = check_address(urljoin(current, found))
    raise UsageError(f"{address} leads on to other addresses more than {_MAX_REDIRECTIONS} times.")


def _request(
    pool: httpcore2.ConnectionPool,
    address: str,
    rules: DownloadRules,
    deadline: float,
    check_cancelled: Callable[[], None],
) -> Download | str:
    """Return the file, or where it leads on to."""
    left = max(deadline - time.monotonic(), 0.1)
    timeouts = {"connect": min(left, 10.0), "read": min(left, 10.0), "write": 10.0, "pool": 10.0}
    with pool.stream(
        "GET", address, headers=_headers(rules), extensions={"timeout": timeouts}
    ) as response:
        headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        if response.status in (301, 302, 303, 307, 308) and b"location" in headers:
            return headers[b"location"]
        if response.status != 200:
            raise UsageError(f"{address} answered with status {response.status}.")
        content_type = headers.get(b"content-type", rules.default_type)
        media_type = content_type.partition(";")[0].strip().lower()
        if not rules.is_accepted(media_type):
            raise UsageError(f"{address} is no {rules.what} but {one_line(media_type, 60)}.")
        if headers.get(b"content-encoding", "identity") != "identity":
            raise UsageError(f"{address} is compressed though that was not asked for.")
        data = bytearray()
        for piece in response.iter_stream():
            data += piece
            check_cancelled()
            if len(data) > rules.max_bytes:
                raise UsageError(f"{address} is larger than {rules.max_bytes >> 20} MB.")
            if time.monotonic() > deadline:
                raise TimeoutError
    return Download(address, media_type, content_type, bytes(data))


def _headers(rules: DownloadRules) -> list[tuple[str, str]]:
    return [
        ("User-Agent", "chatlm (a person's own assistant)"),
        ("Accept", rules.accept),
        ("Accept-Encoding", "identity"),  # a small file could unpack to a huge one
    ]
