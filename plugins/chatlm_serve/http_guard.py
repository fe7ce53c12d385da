"""HTTP protection: Host header and bearer token checks, and body limits."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatlm_serve.errors import ApiError, ErrorJournal
from chatlm_serve.images import count_other_bytes

HEALTH_PATH = "/health"
"""The path that needs no token."""

STATUS_PATH = "/"
"""The path of the page for people, whose browser asks for the token as a password."""

MAX_BODY_BYTES = 2**20
"""Limit of a body without its images."""

MAX_IMAGE_BODY_BYTES = 32 * 2**20
"""Limit of a body with images, which are a third larger in base64."""


MAX_RECEIVED_BYTES = 256 * 2**20
"""Limit of the bodies of all open requests together, which are in memory."""

BUSY_SECONDS = 5
"""Value of `Retry-After` beyond that limit."""

BROWSER_HEADERS = frozenset(("origin", "referer", "sec-fetch-site", "sec-fetch-mode"))
"""Headers of which a browser sends at least one with every POST, and a page cannot remove."""

CURL_TYPES = ("", "application/x-www-form-urlencoded")
"""Media types of `curl -d` without a header."""


ErrorBody = Callable[[ApiError], Mapping[str, Any]]
"""`(error) -> body` of an error response, in a protocol's format."""


@dataclass(frozen=True)
class ErrorFormats:
    """Formats of error responses by path."""

    default: ErrorBody
    prefixes: Mapping[str, ErrorBody] = field(default_factory=dict)
    """Beginnings of paths that have another format."""
    journal: ErrorJournal = field(default_factory=ErrorJournal)
    """Gets every error."""

    def response(self, error: ApiError, path: str) -> JSONResponse:
        """Create the response for an error at a path."""
        self.journal.record(error, path)
        found = (body for prefix, body in self.prefixes.items() if path.startswith(prefix))
        body = next(found, self.default)(error)
        return JSONResponse(body, error.status, error.headers)


class GuardMiddleware:
    """ASGI middleware that rejects foreign Host headers and requests without the token.

    The token is sent as OpenAI's clients do, `Authorization: Bearer TOKEN`, or as Anthropic's,
    `x-api-key: TOKEN`.

    Args:
        app: the protected app.
        loopback: whether the server listens on a loopback address; then the Host header must name
            this machine.
        token: the required token; empty for none.
        errors: formats of the responses to rejected requests.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool, token: str, errors: ErrorFormats) -> None:
        self._app = app
        self._errors = errors
        self._loopback = loopback
        self._token = token
        self._received = 0
        """Bytes of the bodies of all open requests."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject the request or pass it on."""
        error = self._refusal(scope) if scope["type"] == "http" else None
        if error:
            await self._errors.response(error, scope["path"])(scope, receive, send)
            return
        own = 0

        async def receive_counted() -> Message:
            nonlocal own
            message = await receive()
            size = len(message.get("body", b""))
            own += size
            self._received += size
            if self._received > MAX_RECEIVED_BYTES:
                raise ApiError(
                    503,
                    "The server has too many large requests. Try again later.",
                    headers={"Retry-After": str(BUSY_SECONDS)},
                )
            return message

        try:
            await self._app(scope, receive_counted, send)
        finally:
            self._received -= own

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        if self._loopback and not names_loopback(headers.get("host", "")):
            return ApiError(
                403,
                "This server answers only at 127.0.0.1 or localhost.",
                code="wrong_host",
            )
        if not self._token or scope["path"] == HEALTH_PATH:
            return None
        at_page = scope["path"] == STATUS_PATH
        authorization = headers.get("authorization", "")
        sent = [authorization.removeprefix("Bearer "), headers.get("x-api-key", "")]
        if at_page:
            sent.append(_basic_password(authorization))
        if any(hmac.compare_digest(each.encode("latin-1"), self._token.encode()) for each in sent):
            return None
        return ApiError(
            401,
            "A token is required: Authorization: Bearer TOKEN or x-api-key: TOKEN, with the "
            "server's --token.",
            code="invalid_api_key",
            headers={"WWW-Authenticate": 'Basic realm="chatlm"' if at_page else "Bearer"},
        )


def _basic_password(authorization: str) -> str:
    """Return the password that a browser sends after it asked its user; empty for none."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2].decode("latin-1")
    except ValueError:
        return ""


async def read_json_body(request: Request) -> dict[str, Any]:
    """Read a request body as a JSON object.

    A web page of another origin cannot send `application/json` without a CORS preflight, so no
    other type is accepted from a browser. `curl -d` names another one, and is let in.

    Raises:
        ApiError: the body is not a JSON object or is too large.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_from_browser = not BROWSER_HEADERS.isdisjoint(request.headers.keys())
    if media_type != "application/json" and (is_from_browser or media_type not in CURL_TYPES):
        raise ApiError(415, "Send JSON, with the header Content-Type: application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_IMAGE_BODY_BYTES:
            raise ApiError(413, f"The request is larger than {MAX_IMAGE_BODY_BYTES:,} bytes.")
    if len(body) > MAX_BODY_BYTES:  # aside, so that streams go on
        return await asyncio.to_thread(_decode_body, body)
    return _decode_body(body)


def _decode_body(body: bytearray) -> dict[str, Any]:
    if len(body) > MAX_BODY_BYTES and count_other_bytes(body, MAX_BODY_BYTES) > MAX_BODY_BYTES:
        raise ApiError(
            413, f"The request is larger than {MAX_BODY_BYTES:,} bytes, images not counted."
        )
    try:
        value = json.loads(body)
        # Python also reads NaN, numbers that are too large for it, and halves of characters
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise ApiError(
            400, "The request's body is not JSON in UTF-8, or has a number beyond 1e308."
        ) from error
    if not isinstance(value, dict):
        raise ApiError(400, "The request's body must be a JSON object.")
    return value


def is_loopback(host: str) -> bool:
    """Return whether a host is a loopback address."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host.lower() == "localhost"


def names_loopback(header: str) -> bool:
    """Return whether a `Host` header names this machine.

    In a DNS rebinding attack, the browser sends the attacker's name, which is rejected.
    """
    with suppress(ValueError):
        return is_loopback(urlsplit(f"//{header}").hostname or "")
    return False
