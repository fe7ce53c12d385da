"""A server that answers as Ollama and OpenAI do, with one reply, at an even speed."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "steady"


@contextmanager
def serving(reply: str, rate: float) -> Iterator[str]:
    """Serve on a free port of this machine.

    Args:
        reply: what every chat is answered.
        rate: words a second.

    Yields:
        The address, without a path.
    """

    class Handler(_Handler):
        words = re.findall(r"\s*\S+\s*\Z|\s*\S+", reply)
        seconds = 1 / rate

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    words: list[str]
    seconds: float

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal belongs to the benchmark."""

    def do_GET(self) -> None:
        """The one model."""
        model = {"name": MODEL, "model": MODEL, "modified_at": "2025-01-01T00:00:00Z", "size": 1,
                 "digest": "0", "details": {"family": "llama"}}  # fmt: skip
        self._whole({"models": [model], "data": [{"id": MODEL}], "version": "0.9.0"})

    def do_POST(self) -> None:
        """Ollama's chat, OpenAI's chat, or Ollama's description of a model."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        wanted = json.loads(body or b"{}")
        if self.path.endswith("/api/show"):
            self._whole({"details": {"family": "llama"}, "model_info": {}, "capabilities": []})
        elif not wanted.get("stream", True):
            message = {"role": "assistant", "content": "A title"}
            self._whole({"model": MODEL, "message": message, "done": True,
                         "choices": [{"index": 0, "message": message}]})  # fmt: skip
        elif self.path.endswith("/api/chat"):
            self._stream("application/x-ndjson", self._ollama())
        else:
            self._stream("text/event-stream", self._openai())

    def _ollama(self) -> Iterator[str]:
        for word in self.words:
            message = {"role": "assistant", "content": word}
            yield json.dumps({"model": MODEL, "created_at": "2025-01-01T00:00:00Z",
                              "message": message, "done": False}) + "\n"  # fmt: skip
        yield json.dumps({"model": MODEL, "created_at": "2025-01-01T00:00:00Z", "done": True,
                          "message": {"role": "assistant", "content": ""}}) + "\n"  # fmt: skip

    def _openai(self) -> Iterator[str]:
        for word in self.words:
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            yield f"data: {json.dumps(_chunk(choice))}\n\n"
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        yield f"data: {json.dumps(_chunk(end))}\n\ndata: [DONE]\n\n"

    def _whole(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, kind: str, pieces: Iterator[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        due = time.perf_counter()
        try:
            for piece in pieces:
                self.wfile.write(piece.encode())
                self.wfile.flush()
                due += self.seconds
                time.sleep(max(due - time.perf_counter(), 0))
        except ConnectionError:
            return  # the program has ended


def _chunk(choice: dict[str, Any]) -> dict[str, Any]:
    return {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": MODEL,
            "choices": [choice]}  # fmt: skip
