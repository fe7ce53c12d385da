"""Where a model is asked: what stands behind `openai:`, taken apart; opens no connection."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from urllib.parse import urlsplit

from chatlm import UsageError, one_line

KEYRING_SERVICE = "chatlm"
"""Under which a keyring keeps the keys, by the endpoint's name."""

SYNTAX_HINT = 'an endpoint is written "NAME URL" or "NAME URL VARIABLE"'

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL_SUFFIX = re.compile(r"@(?=https?://)", re.IGNORECASE)


@dataclass(frozen=True)
class Endpoint:
    """One server."""

    url: str
    """Its base URL without a slash at the end, such as http://127.0.0.1:8000/v1."""
    name: str = ""
    """Empty where only the URL is known."""
    key_variable: str = ""
    """The environment variable that holds its key; empty for none."""

    @classmethod
    def parse(cls, line: str) -> Endpoint:
        """An endpoint of the settings.

        Raises:
            ValueError: it is not written as it must be.
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
        """What the person calls it."""
        return self.name or self.url

    @property
    def host(self) -> str:
        """The server's name and port."""
        return urlsplit(self.url).netloc

    def key(self) -> str:
        """The server's key, from the environment or else from a keyring; empty for none.

        Raises:
            UsageError: it cannot be one.
        """
        said = os.environ.get(self.key_variable, "").strip() if self.key_variable else ""
        key = said or self._keyring_key()
        if not key.isascii() or not key.isprintable():
            raise UsageError(
                f"The key of {self.display_name} holds characters that no key has.",
                hint=f"Set {self.key_variable} again."
                if said
                else "Store it again in the keyring.",
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
    """The endpoint of a name or a base URL; of an empty text, the first.

    Raises:
        UsageError: there is none.
    """
    if "://" in text:
        try:
            return Endpoint(_validate_url(text))
        except ValueError as error:
            raise UsageError(f"{_capitalize(str(error))}.", hint=_example_hint()) from error
    for endpoint in endpoints:
        if text in ("", endpoint.name):
            return endpoint
    if not text:
        raise UsageError("There is no endpoint yet.", hint=_example_hint())
    near = get_close_matches(text, [endpoint.name for endpoint in endpoints], 1)
    raise UsageError(
        f"There is no endpoint {one_line(text, 64)!r}.",
        hint=f"Did you mean {near[0]}?" if near else _example_hint(),
    )


def split_model_name(name: str, endpoints: Sequence[Endpoint]) -> tuple[str, Endpoint]:
    """The model and the endpoint of `MODEL@URL`, `MODEL@NAME` or, on the first one, `MODEL`.

    Raises:
        UsageError: there is no such endpoint, or no model is named.
    """
    if at := _URL_SUFFIX.search(name):
        model, where = name[: at.start()], name[at.end() :]
    else:
        model, _, where = name.rpartition("@")
        if not model or (where not in {each.name for each in endpoints} and "/" in where):
            model, where = name, ""  # the @ is the model's own, as in @cf/meta/llama
    if not model.strip() or "://" in model:
        raise UsageError(
            f"No model is named in openai:{one_line(name, 100)}.",
            hint="Write openai:MODEL@URL or openai:MODEL@ENDPOINT; what a server has: "
            "chatlm openai models URL",
        )
    return model.strip(), find_endpoint(where.strip(), endpoints)


def _validate_url(url: str) -> str:
    """A base URL as it is used. The message of an error does not repeat it: it may hold a key."""
    try:
        parts = urlsplit(url)
        good = parts.scheme.lower() in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable():
        raise ValueError("a base URL begins with http:// or https:// and a host")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("a base URL has no password, ? or #; a key is named by its variable")
    return url.rstrip("/")


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


def _example_hint() -> str:
    return (
        "Name a base URL such as http://127.0.0.1:8000/v1, or set endpoints: "
        "chatlm config set plugins.openai.endpoints '[\"work http://gpu:8000/v1 WORK_KEY\"]'"
    )
