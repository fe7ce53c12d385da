"""The endpoint's limits on connections, which no number of half-open ones can exhaust."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from chatlm_serve import connections
from chatlm_serve.connections import BACKLOG, RESERVED_DESCRIPTORS, quiet_accept_errors
from chatlm_serve.plugin import Settings
from tests.plugins.serve import MODEL, Echo, send, serving
from tests.waiting import PATIENCE

BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}).encode()
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
)


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def received(connection: socket.socket) -> bytes:
    """All that is sent until the other side closes."""
    content = b""
    while True:
        try:
            piece = connection.recv(4096)
        except ConnectionError:  # closed with unread bytes of ours
            return content
        if not piece:
            return content
        content += piece


class Dribble(threading.Thread):
    """Sends a byte again and again, so that the connection is never idle."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(daemon=True)
        self._connection = connection
        self.closed = threading.Event()

    def run(self) -> None:
        try:
            while not self.closed.wait(0.02):
                self._connection.sendall(b"x")
        except OSError:
            self.closed.set()


@pytest.fixture(scope="module")
def impatient() -> Iterator[str]:
    with serving(Echo(), receive_seconds=0.3) as address:
        yield address


@pytest.mark.parametrize(
    "begun",
    [b"", b"POST /v1/chat/completions HTTP/1.1\r\nX: ", HEAD],
    ids=["nothing", "headers", "body"],
)
def test_a_request_that_never_ends_is_given_up(impatient: str, begun: bytes) -> None:
    with closing(connect(impatient)) as connection:
        connection.sendall(begun)
        if begun:
            Dribble(connection).start()
        assert received(connection).startswith(b"HTTP/1.1 408 ")


def test_a_second_request_that_never_ends_is_given_up_too(impatient: str) -> None:
    with closing(connect(impatient)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        Dribble(connection).start()
        assert b"HTTP/1.1 408 " in received(connection)


def test_a_long_reply_is_not_cut_off() -> None:
    engine = Echo(delay=0.05)
    with serving(engine, receive_seconds=0.3) as address, closing(connect(address)) as connection:
        body = BODY.replace(b"hello", b"one two three " * 10)
        head = HEAD.replace(b"Content-Length: %d" % len(BODY), b"Content-Length: %d" % len(body))
        connection.sendall(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body)
        reply = received(connection)
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert reply.count(b"THREE") == 10


def test_too_many_connections_are_refused_until_one_is_closed() -> None:
    with serving(Echo(), connections=3) as address, ExitStack() as opened:
        held = [opened.enter_context(closing(connect(address))) for _ in range(3)]
        for connection in held:  # answered, so certainly accepted
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        with closing(connect(address)) as refused:
            assert received(refused).startswith(b"HTTP/1.1 503 ")
        held[0].close()
        assert send(address, "/health").status == 200


def test_half_open_connections_keep_nobody_out(impatient: str) -> None:
    with ExitStack() as opened:
        for _ in range(100):
            opened.enter_context(closing(connect(impatient))).sendall(b"GET / HT")
        headers = {"Content-Type": "application/json"}
        answer = send(impatient, "/v1/chat/completions", BODY, method="POST", headers=headers)
        assert answer.status == 200


def test_scarce_descriptors_lower_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def limited(number: int) -> Any:
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (number, number))
        return connections.connection_limit(256)

    assert limited(1024) == 256
    assert limited(RESERVED_DESCRIPTORS + BACKLOG + 40) == 40
    assert limited(10) == 1
    assert limited(resource.RLIM_INFINITY) == 256


def test_running_out_of_descriptors_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # commands that tests run in this process have the program's log to a file
    monkeypatch.setattr(logging.getLogger("chatlm"), "propagate", True)
    time = 0.0
    handle = quiet_accept_errors(lambda: time)
    loop = asyncio.new_event_loop()
    context = {
        "message": "socket.accept() out of system resource",
        "exception": OSError(errno.EMFILE, "Too many open files"),
    }
    with closing(loop), caplog.at_level(logging.ERROR):
        for _ in range(2_000):
            handle(loop, context)
        assert [record.getMessage() for record in caplog.records] == [
            "new connections have to wait: Too many open files"
        ]
        assert caplog.records[0].exc_info is None
        time = 60.0
        handle(loop, context)
        assert len(caplog.records) == 2
        handle(loop, {"message": "another", "exception": ValueError("kept")})
        assert caplog.records[-1].exc_info is not None


@pytest.mark.parametrize("values", [{"connections": 0}, {"receive_seconds": 0.0}])
def test_limits_must_be_positive(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Settings(**values)
