"""Fetch a newer catalogue from the project's repository."""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from urllib.parse import urlsplit

from chatlm.config import paths
from chatlm.errors import ModelError, UsageError
from chatlm.hub.catalogue import parse_catalogue, refreshed_file, shipped_text

MAX_BYTES = 2 << 20
"""Limit of a catalogue, which has some tens of kilobytes."""

_SECONDS = 15.0

_MAX_REDIRECTS = 5

_URL_LABEL = "Catalogue"
"""Label of the address among the project's URLs in pyproject.toml."""


@dataclass(frozen=True)
class Refreshed:
    """What a refresh found."""

    date: str
    models: int
    is_newer: bool
    """Whether it was stored."""


def refresh_catalogue(address: str | None = None) -> Refreshed:
    """Fetch a catalogue, check it, and store it if it is newer than what is here.

    Args:
        address: where it is; None for the project's own address.

    Raises:
        UsageError: the address is not https.
        ModelError: it cannot be fetched, is too large, or is no valid catalogue; nothing changed.
    """
    url = address or _project_address()
    _check_address(url)
    text = _fetch(url)
    try:
        date, entries = parse_catalogue(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"What {url} sent is no catalogue that this chatlm reads: {error}.",
            "A newer chatlm may read it: pip install -U chatlm. The present catalogue stays.",
        ) from error
    if date <= _present_date():
        return Refreshed(_present_date(), len(entries), is_newer=False)
    try:
        refreshed_file().parent.mkdir(parents=True, exist_ok=True)
        paths.write_atomically(refreshed_file(), [text])
    except OSError as error:
        raise ModelError(
            f"{refreshed_file()} cannot be written: {error.strerror}.", "Check its permissions."
        ) from error
    return Refreshed(date, len(entries), is_newer=True)


def _present_date() -> str:
    dates = [parse_catalogue(shipped_text())[0]]
    with contextlib.suppress(OSError, ValueError):  # there is none, or it is not used
        dates.append(parse_catalogue(refreshed_file().read_text(encoding="utf-8"))[0])
    return max(dates)


def _project_address() -> str:
    try:
        urls = metadata("chatlm").get_all("Project-URL") or []
    except PackageNotFoundError:
        urls = []
    for line in urls:
        label, _, url = line.partition(",")
        if label.strip() == _URL_LABEL:
            return str(url.strip())
    raise ModelError(
        "This build of chatlm does not say where its project's repository is.",
        "Give the catalogue's address: chatlm models refresh https://…/catalogue.toml",
    )


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_loopback(parts.hostname or ""):
        return
    raise UsageError(
        f"{url[:200]} is not an https address.",
        hint="A catalogue says what is downloaded, so it is fetched over https only.",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _fetch(url: str) -> str:
    import httpx2

    data = bytearray()
    try:
        with httpx2.Client(timeout=_SECONDS) as client:
            for _ in range(_MAX_REDIRECTS):
                _check_address(url)
                with client.stream("GET", url) as response:
                    if response.next_request is not None:
                        url = str(response.next_request.url)
                        continue
                    if not response.is_success:
                        raise ModelError(
                            f"The catalogue could not be fetched from {url}: the server answers "
                            f"{response.status_code} {response.reason_phrase}.",
                            "Check the address. The present catalogue stays.",
                        )
                    for chunk in response.iter_bytes():
                        data += chunk
                        if len(data) > MAX_BYTES:
                            raise ModelError(
                                f"What {url} sends is larger than {MAX_BYTES >> 20} MiB, so it is "
                                "no catalogue.",
                                "Check the address. The present catalogue stays.",
                            )
                    return data.decode("utf-8")
        raise ModelError(f"{url} leads from one address to another without end.")
    except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeDecodeError) as error:
        raise ModelError(
            f"The catalogue could not be fetched from {url}: {error}",
            "Check the network and try again. The present catalogue stays.",
        ) from error
