"""HTTP protection: Host header and bearer token checks, and body limits."""

from __future__ import annotations

import hmac
import json
from contextlib import suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from chatlm_serve.errors import ApiError

HEALTH_PATH = "/health"
"""The path that needs no token."""

MAX_BODY_BYTES = 2**20


class GuardMiddleware:
    """ASGI middleware that rejects foreign Host headers and requests without the token.

    Args:
        app: the protected app.
        loopback: whether the server listens on a loopback address; then the Host header must name
            this machine.
        token: the required bearer token; empty for none.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool, token: str) -> None:
        self._app = app
        self._loopback = loopback
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject the request or pass it on."""
        error = self._refusal(scope) if scope["type"] == "http" else None
        await (error_response(error) if error else self._app)(scope, receive, send)

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
        sent = headers.get("authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(sent.encode("latin-1"), self._token.encode()):
            return None
        return ApiError(
            401,
            "A token is required: Authorization: Bearer TOKEN, with the server's --token.",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def error_response(error: ApiError) -> JSONResponse:
    """Create the response for an error."""
    return JSONResponse(error.body, error.status, error.headers)


async def read_json_body(request: Request) -> dict[str, Any]:
    """Read a request body as a JSON object.

    Only `application/json` is accepted, since a web page of another origin cannot send that without
    a CORS preflight.

    Raises:
        ApiError: the body is not a JSON object or is too large.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(415, "Send JSON, with the header Content-Type: application/json")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, f"The request is larger than {MAX_BODY_BYTES:,} bytes.")
    try:
        value = json.loads(body)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "The request's body is not JSON in UTF-8.") from error
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
