"""A little server on loopback that speaks OpenAI's protocol as a test tells it to."""

from __future__ import annotations

import json
import select
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

"""Seconds after which a test that waits has failed."""


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


Act = Callable[["Handler", Asked], None]
"""Handles one request for a reply."""


@dataclass
class Script:
    """A server's script, and the requests it received."""

    acts: list[Act] = field(default_factory=list)
    """For the requests in their order; the last one holds for all that follow."""
    models: list[Any] = field(default_factory=lambda: [{"id": "m", "max_model_len": 4096}])
    list_status: int = 200
    other: Act = lambda handler, asked: handler.whole(404, {"error": {"message": "nothing here"}})
    """Handlers of other paths."""
    asked: list[Asked] = field(default_factory=list)
    """Requests for replies, in the order in which they came."""
    listed: list[Asked] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when a client has closed a connection that was waited on."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set at the end of a test, so that waiting handlers return."""
    url: str = ""
    tls: Callable[[ssl.SSLContext], None] = lambda context: None
    """Lets the server speak TLS from now on."""

    @property
    def model(self) -> str:
        """Its model as chatlm names it."""
        return f"openai:m@{self.url}"


class Handler(BaseHTTPRequestHandler):
    """Answers `/v1/models` and `/v1/chat/completions`."""

    protocol_version = "HTTP/1.1"
    script: Script

    def do_GET(self) -> None:
        self.script.listed.append(Asked(self.path, dict(self.headers), {}))
        if self.path != "/v1/models" or self.script.list_status != 200:
            status = 404 if self.path != "/v1/models" else self.script.list_status
            self.whole(status, {"error": {"message": "no list"}})
            return
        self.whole(200, {"object": "list", "data": self.script.models})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        asked = Asked(self.path, dict(self.headers), json.loads(content))
        if self.path != "/v1/chat/completions":
            self.script.other(self, asked)
            return
        self.script.asked.append(asked)
        acts = self.script.acts
        act = acts.pop(0) if len(acts) > 1 else acts[0]
        try:
            act(self, asked)
        except (BrokenPipeError, ConnectionResetError):
            self.script.gone.set()
            self.close_connection = True

    def whole(self, status: int, said: Any, headers: Mapping[str, str] | None = None) -> None:
        """Answer at once; values other than bytes as JSON."""
        content = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def begin(self, kind: str = "text/event-stream") -> None:
        """Begin a stream."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def raw(self, content: bytes) -> None:
        """Send a part of the stream."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()

    def event(self, said: Any) -> None:
        """Send one event; values other than text as JSON."""
        text = said if isinstance(said, str) else json.dumps(said)
        self.raw(f"data: {text}\n\n".encode())

    def end(self) -> None:
        """End the stream."""
        self.wfile.write(b"0\r\n\r\n")

    def wait_until_gone(self) -> None:
        """Send nothing until the client closes the connection."""
        while not self.script.ended.is_set():
            if select.select([self.connection], [], [], 0.02)[0]:
                if not self.connection.recv(1):
                    self.script.gone.set()
                self.close_connection = True
                return

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def piece(text: str = "", finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk as servers send it."""
    delta = {"content": text} if text else {}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]}


def cost(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    """The chunk with the usage."""
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    return {"choices": [], "usage": usage}


def streams(*events: Any, done: bool = True) -> Act:
    """Send events as they are given."""

    def act(handler: Handler, asked: Asked) -> None:
        handler.begin()
        for event in events:
            handler.event(event)
        if done:
            handler.event("[DONE]")
        handler.end()

    return act


def says(*texts: str, finish: str = "stop", **more: Any) -> Act:
    """Reply with these pieces."""
    opening = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    return streams(
        opening, *map(piece, texts), piece("", finish, **more), cost(7, len(texts), cached=2)
    )


def refuses(status: int, said: Any = b"", headers: Mapping[str, str] | None = None) -> Act:
    """Refuse."""
    return lambda handler, asked: handler.whole(status, said, headers)


def refuses_fields(*names: str) -> Act:
    """Take no request that has one of these fields, as a strict server does."""

    def act(handler: Handler, asked: Asked) -> None:
        for name in names:
            if name in asked.body:
                handler.whole(400, {"error": {"message": f"Unrecognized argument: {name}"}})
                return
        says("fine")(handler, asked)

    return act


def breaks_off(*events: Any) -> Act:
    """Send events, then close the connection in the middle of the stream."""

    def act(handler: Handler, asked: Asked) -> None:
        handler.begin()
        for event in events:
            handler.event(event)
        handler.close_connection = True

    return act


def hangs(*events: Any) -> Act:
    """Send events, then nothing until the client goes."""

    def act(handler: Handler, asked: Asked) -> None:
        handler.begin()
        for event in events:
            handler.event(event)
        handler.wait_until_gone()

    return act


def keeps_silent(handler: Handler, asked: Asked) -> None:
    """Not even begin to answer."""
    handler.wait_until_gone()


def echoes(handler: Handler, asked: Asked) -> None:
    """Reply with the last message and the seed, so that the reply depends on nothing else."""
    says(asked.body["messages"][-1]["content"], f" #{asked.body.get('seed')}")(handler, asked)


@contextmanager
def serving(*acts: Act, models: Sequence[Any] | None = None) -> Iterator[Script]:
    """Serve on a free port."""
    script = Script(list(acts or (says("Hello", " there."),)))
    if models is not None:
        script.models = list(models)

    class Own(Handler):
        pass

    Own.script = script
    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_port}/v1"

    def tls(context: ssl.SSLContext) -> None:
        server.socket = context.wrap_socket(server.socket, server_side=True)

    script.tls = tls
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield script
    finally:
        script.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
