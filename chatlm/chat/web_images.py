"""Images from the web, downloaded as the tool `fetch` does it."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from chatlm.chat.images import read_image
from chatlm.errors import UsageError
from chatlm.types.parts import PreparedImage

if TYPE_CHECKING:
    from chatlm.config.config import Config

MAX_DOWNLOAD_BYTES = 20 << 20
"""Maximum size of a downloaded image."""


def is_web_address(text: str) -> bool:
    """Return whether a text is an address that may be downloaded."""
    return text.startswith(("http://", "https://"))


def named_hosts(config: Config) -> tuple[str, ...]:
    """Return the servers that need not be public, each as HOST:PORT: those that the tool `fetch`
    may read."""
    hosts = config.plugins.get("tools", {}).get("web_hosts", ())
    return tuple(map(str, hosts)) if isinstance(hosts, list | tuple) else ()


def fetch_image(address: str, hosts: Sequence[str] = ()) -> PreparedImage:
    """Download an image.

    Args:
        address: starts with http:// or https://.
        hosts: servers that need not be public, each as HOST:PORT.

    Raises:
        UsageError: the server is neither public nor named, does not answer in time, or has no
            image there, or one that cannot be read; see `read_image`.
    """
    from chatlm.chat.downloads import DownloadRules, download
    from chatlm.chat.web_addresses import CheckedConnections

    rules = DownloadRules(
        "image",
        "image/png, image/jpeg, image/webp, image/*;q=0.5",
        lambda kind: kind.startswith("image/") or kind == "application/octet-stream",
        "application/octet-stream",
        MAX_DOWNLOAD_BYTES,
    )
    found = download(address, rules, CheckedConnections(hosts))
    name = posixpath.basename(unquote(urlsplit(found.address).path)) or "image"
    try:
        return read_image(found.content, name)
    except UsageError as error:
        raise UsageError(f"{error.message} ({found.address})", error.hint) from error
