"""Download a page, and its text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from chatlm import CheckedConnections, DownloadRules, UsageError, download, one_line

MAX_BYTES = 5 << 20
_TEXT_TYPES = (
    "application/json",
    "application/xml",
    "application/xhtml+xml",
    "application/rss+xml",
)
_TEXT = DownloadRules(
    "text",
    "text/html, text/*;q=0.9, application/json;q=0.8",
    lambda media_type: media_type.startswith("text/") or media_type in _TEXT_TYPES,
    "text/plain",
    MAX_BYTES,
)


@dataclass(frozen=True)
class Page:
    """A downloaded page."""

    address: str
    """Where it was found, after redirections."""
    media_type: str
    text: str


def download_page(
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
    found = download(address, _TEXT, backend, check_cancelled)
    return Page(found.address, found.media_type, _decode(found.content, found.content_type))


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
