"""The API server on a local port, over an engine that echoes each client's message."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from chatlm import Engine, EngineEvent, Finished, Request, StopReason, ToolCall, ToolResult
from chatlm.chat.side_chats import InMemorySideChats
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.types.events import Delta
from chatlm_serve.api import Api
from chatlm_serve.listener import bind_socket
from chatlm_serve.server import ApiServer
from tests.waiting import PATIENCE, wait_until

MODEL = "scripted"


class Echo(ScriptedEngine):
    """Replies with the last message in capitals, a word per token."""

    def __init__(self, delay: float = 0.0) -> None:
        super().__init__(delay=delay)
        self.made = 0
        """Tokens so far."""
        self.may_speak = threading.Event()
        """While cleared, the engine waits before its next word."""
        self.may_speak.set()

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        self.queue(request.messages[-1].text.upper())
        for event in super().stream(request):
            if isinstance(event, Delta):
                self.may_speak.wait(PATIENCE)
                self.made += 1
            yield event


class Caller(ScriptedEngine):
    """Calls each tool that it is offered once, then says what the tools returned."""

    def __init__(self) -> None:
        super().__init__()
        accepts = frozenset({"text", "tool_call", "tool_result"})
        self.info = dataclasses.replace(
            self.info, accepts=accepts, constraints=frozenset({"schema"})
        )

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        results = [part for part in request.messages[-1].parts if isinstance(part, ToolResult)]
        self.queue(" ".join(result.text for result in results) or "Nothing.")
        calls = tuple(
            ToolCall(f"call{number}", tool.name, '{"of": 1}')
            for number, tool in enumerate(request.tools)
            if not results and request.tool_choice in ("auto", "required", tool.name)
        )
        for event in super().stream(request):
            if isinstance(event, Finished) and calls:
                yield Finished(StopReason.TOOL_CALLS, event.usage, None, calls)
            elif not calls or not isinstance(event, Delta):
                yield event


class _InAThread(ApiServer):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Only a main thread gets any."""
        yield


@contextmanager
def serving(
    engine: Engine,
    *,
    plugins: PluginHost | None = None,
    queue: int = 16,
    at_once: int = 8,
    loopback: bool = True,
    token: str = "",
    connections: int = 256,
    receive_seconds: float = PATIENCE,
    keep_seconds: float = PATIENCE,
) -> Iterator[str]:
    """Serve in a thread.

    Yields:
        The address, without a path.
    """
    host = plugins or PluginHost()
    chats = InMemorySideChats(Config(), host, lambda m, r: engine, lambda w: None)
    with bind_socket("127.0.0.1", 0) as listener, chats:
        server = _InAThread(
            Api(chats, queue, at_once, keep_seconds),
            loopback=loopback,
            token=token,
            max_connections=connections,
            receive_seconds=receive_seconds,
        )
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        port = listener.getsockname()[1]
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
        assert not thread.is_alive()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def send(
    address: str,
    path: str,
    content: bytes | None = None,
    *,
    method: str = "GET",
    headers: Mapping[str, str | bytes] | None = None,
) -> Answer:
    """Send an HTTP request."""
    host = address.removeprefix("http://")
    with closing(HTTPConnection(host, timeout=PATIENCE)) as connection:
        connection.request(method, path, content, headers or {})
        answer = connection.getresponse()
        lower = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, lower, answer.read())
