"""Servers of the Model Context Protocol for tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chatlm_mcp.server import Server
from chatlm_mcp.server_config import ServerConfig
from chatlm_mcp.settings import Settings
from tests.waiting import wait_until

TESTS = Path(__file__).parents[1]

PATIENT = Settings(start_seconds=300, call_seconds=300)
"""More than any machine needs."""


def sdk_config(*options: str, name: str = "test") -> ServerConfig:
    """A server that is written with the SDK."""
    return ServerConfig(name, sys.executable, (str(TESTS / "mcp_server.py"), *options))


def raw_config(mode: str) -> ServerConfig:
    """A server that breaks the protocol in one way."""
    return ServerConfig("raw", sys.executable, (str(TESTS / "raw_mcp_server.py"), mode))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def running(
    config: ServerConfig,
    settings: Settings = PATIENT,
    clock: Callable[[], float] | None = None,
) -> Iterator[Server]:
    """Provide a server, which is ended afterwards."""
    server = Server(config, settings, clock or Clock())
    try:
        yield server
    finally:
        server.close()


@contextmanager
def http_server(script: Path, *arguments: str) -> Iterator[str]:
    """Run a script's server over HTTP; provides its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(script), *arguments, "--http", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
    )

    def is_reached() -> bool:
        assert process.poll() is None
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(is_reached)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        process.wait()
