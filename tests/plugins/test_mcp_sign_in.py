"""Servers that want OAuth are signed in to in the browser once; tokens are stored and renewed."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlencode

import httpx2
import pytest
import uvicorn
from mcp.server import MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from chatlm import ChatlmError, UsageError
from chatlm_mcp.results import result_text
from chatlm_mcp.server_config import ServerConfig
from chatlm_mcp.sign_in import StoredTokens, sign_in, stored_sign_in
from tests.plugins.mcp_servers import running
from tests.waiting import wait_until


class Provider:
    """An authorization server and the MCP server behind it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.valid: set[str] = set()
        self.given = 0
        self.grants: list[str] = []
        self.denies = False
        self.renews = True
        server = MCPServer("guarded")

        @server.tool()
        def add(first: int, second: int) -> int:
            return first + second

        self._guarded = server.streamable_http_app(streamable_http_path="/mcp")
        self._open = Starlette(
            routes=[
                Route("/.well-known/oauth-protected-resource/mcp", self.resource),
                Route("/.well-known/oauth-authorization-server", self.metadata),
                Route("/register", self.register, methods=["POST"]),
                Route("/authorize", self.authorize),
                Route("/token", self.token, methods=["POST"]),
            ]
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        token = headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
        if scope["type"] == "lifespan":
            await self._guarded(scope, receive, send)
        elif scope["path"] != "/mcp":
            await self._open(scope, receive, send)
        elif token in self.valid:
            await self._guarded(scope, receive, send)
        else:
            await Response("sign in", 401)(scope, receive, send)

    async def resource(self, request: Request) -> Response:
        return JSONResponse(
            {"resource": f"{self.url}/mcp", "authorization_servers": [f"{self.url}/"]}
        )

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": f"{self.url}/",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "registration_endpoint": f"{self.url}/register",
                "response_types_supported": ["code"],
                "code_challenge_methods_supported": ["S256"],
            }
        )

    async def register(self, request: Request) -> Response:
        return JSONResponse({**(await request.json()), "client_id": "chatlm-1"}, 201)

    async def authorize(self, request: Request) -> Response:
        asked = request.query_params
        assert asked["code_challenge_method"] == "S256"
        answer = {"error": "access_denied"} if self.denies else {"code": "abc"}
        query = urlencode({**answer, "state": asked["state"]})
        return RedirectResponse(f"{asked['redirect_uri']}?{query}", 302)

    async def token(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode())
        self.grants.append(form["grant_type"][0])
        if self.grants[-1] == "refresh_token" and not self.renews:
            return JSONResponse({"error": "invalid_grant"}, 400)
        self.given += 1
        self.valid = {f"token-{self.given}"}
        return JSONResponse(
            {
                "access_token": f"token-{self.given}",
                "refresh_token": "again",
                "token_type": "Bearer",
                "expires_in": 3600,
            }
        )


@contextmanager
def serving() -> Iterator[Provider]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        provider = Provider(listener.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(provider, log_config=None))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield provider
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def provider(home: Path) -> Iterator[Provider]:
    with serving() as provider:
        yield provider


def visit(url: str) -> None:
    """Do what a browser does with the page of a user who is known there."""
    Thread(target=lambda: httpx2.get(url, follow_redirects=True), daemon=True).start()


def test_tokens_are_fetched_once_used_and_renewed(provider: Provider) -> None:
    config = ServerConfig("guarded", url=f"{provider.url}/mcp")
    with running(config) as server, pytest.raises(ChatlmError) as failure:
        server.list_all()
    assert "chatlm mcp login guarded" in str(failure.value)

    sign_in(config, visit)
    stored = StoredTokens(config)
    assert stored.path.stat().st_mode & 0o77 == 0
    assert stored.read()["tokens"]["access_token"] == "token-1"
    with running(config) as server:
        assert result_text(server.call_tool("add", {"first": 1, "second": 2})) == "3"
    assert provider.grants == ["authorization_code"]

    stored.write(expires=time.time() - 10)
    with running(config) as server:
        assert result_text(server.call_tool("add", {"first": 1, "second": 2})) == "3"
    assert provider.grants == ["authorization_code", "refresh_token"]
    assert stored.read()["tokens"]["access_token"] == "token-2"

    # another address under the same name gets no tokens
    assert stored_sign_in(ServerConfig("guarded", url="http://127.0.0.1:1/mcp")) is None
    assert "token" not in json.dumps(StoredTokens(ServerConfig("guarded", url="http://x")).read())


def test_a_sign_in_that_has_ended_is_asked_for_again(provider: Provider) -> None:
    config = ServerConfig("guarded", url=f"{provider.url}/mcp")
    sign_in(config, visit)
    provider.valid.clear()
    provider.renews = False
    StoredTokens(config).write(expires=time.time() - 10)
    with running(config) as server, pytest.raises(ChatlmError) as failure:
        server.list_all()
    assert "the sign-in has ended" in str(failure.value)
    assert "chatlm mcp login guarded" in str(failure.value)
    assert provider.grants == ["authorization_code", "refresh_token"]


def test_a_sign_in_that_is_refused_is_an_error(provider: Provider) -> None:
    provider.denies = True
    config = ServerConfig("guarded", url=f"{provider.url}/mcp")
    with pytest.raises(ChatlmError, match="access_denied"):
        sign_in(config, visit)
    assert StoredTokens(config).read().get("tokens") is None


def test_a_server_without_sign_in_says_so(provider: Provider) -> None:
    provider.valid = {""}  # it lets everybody in
    with pytest.raises(ChatlmError, match="did not ask for a sign-in"):
        sign_in(ServerConfig("guarded", url=f"{provider.url}/mcp"), visit)
    with pytest.raises(UsageError, match="runs here"):
        sign_in(ServerConfig("local", command="x"), visit)
