"""Endpoints: parse model names such as `MODEL@URL`, validate base URLs, and find keys."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_address
from urllib.parse import urlsplit

from chatlm import UsageError, one_line
from chatlm_openai.usual_ports import PROGRAMS

KEYRING_SERVICE = "chatlm"
"""Service name in the system keyring; the user name is the endpoint's name."""

SYNTAX_HINT = 'an endpoint is written "NAME URL" or "NAME URL VARIABLE"'

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL_SUFFIX = re.compile(r"@(?=https?://)", re.IGNORECASE)


@dataclass(frozen=True)
class Endpoint:
    """A server's base URL, name and key."""

    url: str
    """Base URL without a trailing slash, such as http://127.0.0.1:8000/v1."""
    name: str = ""
    """Name in the settings; empty if the user gave only a URL."""
    key_variable: str = ""
    """Environment variable with the key; empty for none."""

    @classmethod
    def parse(cls, line: str) -> Endpoint:
        """Parse an endpoint of the settings.

        Raises:
            ValueError: the syntax is invalid.
        """
        words = line.split()
        if not 2 <= len(words) <= 3:
            raise ValueError(SYNTAX_HINT)
        name, url, variable = (*words, "")[:3]
        if not _NAME.fullmatch(name):
            raise ValueError("an endpoint's name has letters, digits, hyphens and underscores")
        if variable and not _VARIABLE.fullmatch(variable):
            raise ValueError(f"{name}: give the name of an environment variable, not the key")
        return cls(_validate_url(url), name, variable)

    @property
    def display_name(self) -> str:
        """The name, or else the URL."""
        return self.name or self.url

    @property
    def host(self) -> str:
        """The host name and port."""
        return urlsplit(self.url).netloc

    @property
    def port(self) -> int:
        """The port."""
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def key(self) -> str:
        """Return the API key from the environment or the system keyring; empty for none.

        Raises:
            UsageError: it contains invalid characters.
        """
        from_environment = (
            os.environ.get(self.key_variable, "").strip() if self.key_variable else ""
        )
        key = from_environment or self._keyring_key()
        if not key.isascii() or not key.isprintable():
            raise UsageError(
                f"The key of {self.display_name} contains invalid characters.",
                hint=f"Set {self.key_variable} again."
                if from_environment
                else "Store it in the keyring again.",
            )
        return key

    def _keyring_key(self) -> str:
        if not self.name:
            return ""
        try:
            import keyring
            from keyring.errors import KeyringError
        except ImportError:
            return ""
        try:
            return (keyring.get_password(KEYRING_SERVICE, self.name) or "").strip()
        except KeyringError:
            return ""


def find_endpoint(text: str, endpoints: Sequence[Endpoint]) -> Endpoint:
    """Find an endpoint by name or base URL; an empty text is the first endpoint.

    Raises:
        UsageError: there is none, or the URL is invalid.
    """
    if "://" in text:
        try:
            return Endpoint(_validate_url(text))
        except ValueError as error:
            raise UsageError(f"{_capitalize(str(error))}.", hint=_example_hint()) from error
    for endpoint in endpoints:
        if text in ("", endpoint.name):
            return endpoint
    if program := PROGRAMS.get(text):
        return Endpoint(program.url, program.name)
    if not text:
        raise UsageError("No endpoint is configured.", hint=_example_hint())
    similar = get_close_matches(text, [endpoint.name for endpoint in endpoints], 1)
    raise UsageError(
        f"There is no endpoint {one_line(text, 64)!r}.",
        hint=f"Did you mean {similar[0]}?" if similar else _example_hint(),
    )


def split_model_name(name: str, endpoints: Sequence[Endpoint]) -> tuple[str, Endpoint]:
    """Split `MODEL@URL`, `MODEL@NAME` or, for the first endpoint, `MODEL`.

    Raises:
        UsageError: there is no such endpoint, or the model is missing.
    """
    if at := _URL_SUFFIX.search(name):
        model, where = name[: at.start()], name[at.end() :]
    else:
        model, _, where = name.rpartition("@")
        if not model or (where not in {each.name for each in endpoints} and "/" in where):
            model, where = name, ""  # the @ belongs to the model's name, as in @cf/meta/llama
    if not model.strip() or "://" in model:
        raise UsageError(
            f"openai:{one_line(name, 100)} does not name a model.",
            hint="Write openai:MODEL@URL or openai:MODEL@ENDPOINT; list a server's models: "
            "chatlm openai models URL",
        )
    return model.strip(), find_endpoint(where.strip(), endpoints)


def _validate_url(url: str) -> str:
    """Validate and normalize a base URL. Errors do not quote it, since it may contain a key."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme.lower() in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not url.isascii() or not url.isprintable():
        raise ValueError("a base URL starts with http:// or https:// and a host")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            "a base URL cannot contain a password, ? or #; name the variable that contains the key"
        )
    return url.rstrip("/")


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


def _example_hint() -> str:
    return (
        "Specify a base URL such as http://127.0.0.1:8000/v1, or set endpoints: "
        "chatlm config set plugins.openai.endpoints '[\"work http://gpu:8000/v1 WORK_KEY\"]'"
    )
