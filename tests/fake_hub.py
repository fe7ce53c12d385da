"""A small hub on loopback that speaks the real one's protocol: files, ranges, refusals."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """The repositories, and the requests for them."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files by name, by repository."""
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Status and error code, by repository."""
    bytes_per_second: float | None = None
    """Speed of large files; None for no limit."""
    break_after: int | None = None
    """Bytes of a large file after which the connection ends, once."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes that are claimed for files, by name."""
    requests: list[str] = field(default_factory=list)
    """Method, path and range of each request."""
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        span = request.headers.get("Range", "")
        self.requests.append(f"{request.command} {request.path} {span}".strip())
        path = unquote(urlsplit(request.path).path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path):
            return self._describe(request, found[1], found[2] or "")
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self._send_file(request, found[1], found[2], span)
        return _send(request, b"", 404, {"X-Error-Code": "EntryNotFound"})

    def _describe(self, request: BaseHTTPRequestHandler, name: str, rest: str) -> None:
        if refusal := self._refusal(name):
            return _send(request, b"{}", refusal[0], {"X-Error-Code": refusal[1]})
        files = self.repositories[name]
        if rest.startswith("/tree/"):
            tree = [
                {"type": "file", "path": path, "size": len(data), "oid": "0" * 40}
                for path, data in files.items()
            ]
            return _send(request, json.dumps(tree).encode())
        siblings = []
        for path, data in files.items():
            size = self.sizes.get(path, len(data))
            entry: dict[str, object] = {"rfilename": path, "size": size}
            if path.endswith((".gguf", ".safetensors")):
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": size, "pointerSize": 1}
            siblings.append(entry)
        info = {"id": name, "sha": COMMIT, "siblings": siblings}
        return _send(request, json.dumps(info).encode())

    def _refusal(self, name: str) -> tuple[int, str] | None:
        if name in self.refusals:
            return self.refusals[name]
        return None if name in self.repositories else (404, "RepoNotFound")

    def _send_file(self, request: BaseHTTPRequestHandler, name: str, path: str, span: str) -> None:
        data = self.repositories.get(name, {}).get(path)
        if data is None:
            return _send(request, b"", 404, {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if not (start := re.fullmatch(r"bytes=([0-9]+)-", span)):
            return self._stream(request, data, 200, headers)
        first = int(start[1])
        headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        return self._stream(request, data[first:], 206, headers)

    def _stream(
        self, request: BaseHTTPRequestHandler, data: bytes, status: int, headers: dict[str, str]
    ) -> None:
        large = len(data) > 20_000
        if self.break_after is not None and large and request.command == "GET":
            part, self.break_after = data[: self.break_after], None
            _send(request, part, status, headers, length=len(data))
            request.close_connection = True
            request.connection.close()
            return
        if self.bytes_per_second is None or not large or request.command != "GET":
            _send(request, data, status, headers)
            return
        _send(request, b"", status, headers, length=len(data))
        step = max(1, int(self.bytes_per_second / 20))
        for at in range(0, len(data), step):
            request.wfile.write(data[at : at + step])
            request.wfile.flush()
            time.sleep(1 / 20)


def _send(
    request: BaseHTTPRequestHandler,
    body: bytes,
    status: int = 200,
    headers: dict[str, str] | None = None,
    length: int | None = None,
) -> None:
    request.send_response(status)
    size = len(body) if length is None else length
    for key, value in {"Content-Length": str(size), **(headers or {})}.items():
        request.send_header(key, value)
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body)


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve a hub; its address is `hub.url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            hub.answer(self)

        def do_GET(self) -> None:
            hub.answer(self)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
