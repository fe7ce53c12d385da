"""Loopback, Host header, bearer token, body size."""

from __future__ import annotations

import hmac
import json
import socket
from contextlib import suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from chatlm import UsageError
from chatlm_serve.errors import ApiError

HEALTH_PATH = "/health"
"""What is answered without a token."""


MAX_BODY_BYTES = 2**20
"""Of a request's body."""


class GuardMiddleware:
    """Lets through what comes from this machine, or with the token.

    Args:
        app: what is guarded.
        loopback: whether it is reached from this machine only.
        token: asked for where it is not empty.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool, token: str) -> None:
        self._app = app
        self._loopback = loopback
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        error = self._refusal(scope) if scope["type"] == "http" else None
        await (error_response(error) if error else self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        if self._loopback and not names_loopback(headers.get("host", "")):
            return ApiError(
                403,
                "This server is reached as 127.0.0.1 or localhost only.",
                code="wrong_host",
            )
        if not self._token or scope["path"] == HEALTH_PATH:
            return None
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(given.encode("latin-1"), self._token.encode()):
            return None
        return ApiError(
            401,
            "A token is needed: Authorization: Bearer TOKEN. It is the server's --token.",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def error_response(error: ApiError) -> JSONResponse:
    """An error as it is sent."""
    return JSONResponse(error.body, error.status, error.headers)


async def read_json_body(request: Request) -> dict[str, Any]:
    """The object that a request's body holds.

    A web page of another origin can send any text without asking, but not with this content type.

    Raises:
        ApiError: it holds none, or is too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "Send JSON, with the header Content-Type: application/json")
    body = b""
    async for part in request.stream():
        body += part
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
    """Whether only this machine reaches what listens there."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host.lower() == "localhost"


def names_loopback(header: str) -> bool:
    """Whether a `Host` header names this machine itself.

    A browser that was lured to a name which suddenly means 127.0.0.1 (DNS rebinding) still sends
    that name.
    """
    with suppress(ValueError):
        return is_loopback(urlsplit(f"//{header}").hostname or "")
    return False


def bind_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that what is wrong with the address shows at once.

    Raises:
        UsageError: the host is not this machine's, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(
            f"There is no address {host!r}.", hint="This machine's own is 127.0.0.1."
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"Nothing can listen at {http_url(host, port)}: {error.strerror}.",
            hint="Choose another port: --port 0 takes any that is free.",
        ) from error
    return listener


def http_url(host: str, port: int) -> str:
    """The address as it is typed into a browser."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
