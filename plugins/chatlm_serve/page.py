"""The terminal UI in a browser; every open page has its own chatlm process."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import shlex
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from textual_serve.server import Server

from chatlm_serve.http_guard import is_loopback, names_loopback

TEMPLATES = Path(__file__).parent / "templates"

_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def security_headers() -> dict[str, str]:
    """Return the headers of all responses: the page runs only what comes with it, in no frame.

    A page that another site shows in a frame can be covered, and its user made to type and click
    into it unknowingly.
    """
    page = (TEMPLATES / "app_index.html").read_text(encoding="utf-8")
    hashes = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in _INLINE_SCRIPT.findall(page)
    ]
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(["'self'", *(f"'sha256-{digest}'" for digest in hashes)]),
        "style-src": "'self' 'unsafe-inline'",  # xterm.js writes its styles into the page
        "font-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",  # which includes its web socket
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(" ".join(rule) for rule in policy.items()),
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


def serve_pages(host: str, listener: socket.socket, model: str | None, max_pages: int) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Args:
        host: the address.
        listener: the socket that listens there.
        model: the model's name, as for `--model`; None for the default.
        max_pages: maximum number of open pages.
    """
    command = [sys.executable, "-m", "chatlm_serve.page_child", *([model] if model else [])]
    server = PageServer(
        shlex.join(command), max_pages, host=host, title="chatlm", templates_path=TEMPLATES
    )
    web.run_app(server._make_app(), sock=listener, print=None, access_log=None)


class PageServer(Server):
    """A server whose web socket accepts only its own page.

    Browsers let any web page open a web socket to any address, including this machine's, so the
    Origin header must match the requested host.

    Args:
        command: runs the terminal UI of a page.
        max_pages: maximum number of open pages.
        server_options: passed to `textual_serve.server.Server`.
    """

    def __init__(self, command: str, max_pages: int, **server_options: Any) -> None:
        super().__init__(command, **server_options)
        self._max_pages = max_pages
        self._open_pages: set[asyncio.Task[web.WebSocketResponse]] = set()
        self._headers = security_headers()

    async def _make_app(self) -> web.Application:
        app: web.Application = await super()._make_app()
        app.on_response_prepare.append(self._add_headers)
        return app

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(self._headers)

    async def on_startup(self, app: web.Application) -> None:
        """Print nothing."""

    async def on_shutdown(self, app: web.Application) -> None:
        """Close all pages, so that shutdown does not wait for them."""
        for page in self._open_pages:
            page.cancel()

    async def handle_index(self, request: web.Request) -> Any:
        """Serve the page."""
        self._check_host(request)
        self._check_page_limit()
        self.public_url = f"{request.scheme}://{request.host}"
        return await super().handle_index(request)

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Connect a page to its own terminal UI."""
        self._check_host(request)
        if urlsplit(request.headers.get("Origin", "")).netloc != request.host:
            raise web.HTTPForbidden(text="Only chatlm's own page can open the chat.")
        self._check_page_limit()
        page = asyncio.create_task(super().handle_websocket(request))
        self._open_pages.add(page)
        try:
            return await page
        finally:
            self._open_pages.discard(page)

    def _check_page_limit(self) -> None:
        if len(self._open_pages) >= self._max_pages:
            pages = "1 page is" if self._max_pages == 1 else f"{self._max_pages} pages are"
            raise web.HTTPServiceUnavailable(
                text=f"{pages} already open, each with its own model in memory. Close one and "
                "reload this page, or raise the limit: chatlm config set plugins.serve.pages N"
            )

    def _check_host(self, request: web.Request) -> None:
        if is_loopback(self.host) and not names_loopback(request.host):
            raise web.HTTPForbidden(text="This page is available only at 127.0.0.1 or localhost.")
