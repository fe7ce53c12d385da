"""Download a page: redirections, limits, and its text."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpcore2

from chatlm import UsageError, one_line
from chatlm_tools.web.addresses import AddressRefused, CheckedConnections

MAX_BYTES = 5 << 20
_MAX_REDIRECTIONS = 5
_SECONDS = 20.0
_HEADERS = (
    ("User-Agent", "chatlm (a person's own assistant)"),
    ("Accept", "text/html, text/*;q=0.9, application/json;q=0.8"),
    ("Accept-Encoding", "identity"),  # a small file could unpack to a huge one
)
_TEXT_TYPES = (
    "application/json",
    "application/xml",
    "application/xhtml+xml",
    "application/rss+xml",
)


@dataclass(frozen=True)
class Page:
    """A downloaded page."""

    address: str
    """Where it was found, after redirections."""
    media_type: str
    text: str


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
    address: str, backend: CheckedConnections, check_cancelled: Callable[[], None]
) -> Page:
    """Download a page.

    Args:
        address: starts with http:// or https://.
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
                found = _request(pool, current, deadline, check_cancelled)
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
            if isinstance(found, Page):
                return found
            current = check_address(urljoin(current, found))
    raise UsageError(f"{address} leads on to other addresses more than {_MAX_REDIRECTIONS} times.")


def _request(
    pool: httpcore2.ConnectionPool,
    address: str,
    deadline: float,
    check_cancelled: Callable[[], None],
) -> Page | str:
    """Return the page, or where it leads on to."""
    left = max(deadline - time.monotonic(), 0.1)
    timeouts = {"connect": min(left, 10.0), "read": min(left, 10.0), "write": 10.0, "pool": 10.0}
    with pool.stream(
        "GET", address, headers=_HEADERS, extensions={"timeout": timeouts}
    ) as response:
        headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        if response.status in (301, 302, 303, 307, 308) and b"location" in headers:
            return headers[b"location"]
        if response.status != 200:
            raise UsageError(f"{address} answered with status {response.status}.")
        content_type = headers.get(b"content-type", "text/plain")
        media_type = content_type.partition(";")[0].strip().lower()
        if not media_type.startswith("text/") and media_type not in _TEXT_TYPES:
            raise UsageError(f"{address} is no text but {one_line(media_type, 60)}.")
        if headers.get(b"content-encoding", "identity") != "identity":
            raise UsageError(f"{address} is compressed though that was not asked for.")
        data = bytearray()
        for piece in response.iter_stream():
            data += piece
            check_cancelled()
            if len(data) > MAX_BYTES:
                raise UsageError(f"{address} is larger than {MAX_BYTES >> 20} MB.")
            if time.monotonic() > deadline:
                raise TimeoutError
    return Page(address, media_type, _decode(bytes(data), content_type))


def _decode(data: bytes, content_type: str) -> str:
    """Decode a page by its header, by what it says of itself, or by its bytes."""
    declared = re.search(r"charset=[\"']?([\w.:-]+)", content_type, re.IGNORECASE)
    inside = re.search(rb"<meta[^>]+charset=[\"']?([\w.:-]+)", data[:4096], re.IGNORECASE)
    names = [declared[1]] if declared else []
    names += [inside[1].decode("ascii")] if inside else []
    for name in (*names, "utf-8"):
        try:
            return data.decode(name)
        except (LookupError, UnicodeDecodeError):
            continue
    from charset_normalizer import from_bytes

    best = from_bytes(data).best()
    return str(best) if best is not None else data.decode("utf-8", errors="replace")


def readable_text(page: Page) -> tuple[str, str]:
    """Return the title and the text of a page, as Markdown, without its menus.

    Raises:
        UsageError: it has no text.
    """
    if page.media_type not in ("text/html", "application/xhtml+xml"):
        return "", page.text.strip()
    import trafilatura

    document = trafilatura.bare_extraction(
        page.text, url=page.address, include_links=False, include_tables=True, with_metadata=True
    )
    text = trafilatura.extract(
        page.text, url=page.address, output_format="markdown", include_tables=True
    )
    if not text:
        raise UsageError(f"{page.address} has no text that could be read without its scripts.")
    return one_line(getattr(document, "title", None) or "", 200), text
