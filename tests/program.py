"""Run `chatlm …` as a process of its own, without waiting for its imports each time."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0


def run_chatlm(
    *arguments: str,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command line with captured output, decoded as UTF-8 with its line ends as they are.

    The process is a fork of one that has imported torch, transformers, peft, the commands and the
    plugins, but nothing else of the test run. Tests of start-up, imports and signals start Python
    themselves.
    """
    environment = {**os.environ, **(environment or {})}
    with TemporaryDirectory() as name:
        streams = [Path(name, stream) for stream in ("stdin", "stdout", "stderr")]
        streams[0].write_bytes(stdin.encode())
        code = _server().run(arguments, environment, folder or Path.cwd(), streams)
        output, errors = (path.read_bytes().decode() for path in streams[1:])
    return subprocess.CompletedProcess(list(arguments), code, output, errors)


class _Server:
    """One running `tests.program_server`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.program_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._received = b""

    def run(
        self,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        folder: Path,
        streams: list[Path],
    ) -> int:
        """Run one program to its end; returns its exit code, negative after a signal."""
        assert self._process.stdin is not None
        order = {
            "arguments": arguments,
            "environment": dict(environment),
            "folder": str(folder),
            "streams": [str(path) for path in streams],
        }
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        program = self._answer()["pid"]
        try:
            return self._answer()["returncode"]
        except subprocess.TimeoutExpired:
            os.kill(program, signal.SIGKILL)
            self._answer()
            raise

    def _answer(self) -> dict[str, int]:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._received:
            if not select.select([pipe], [], [], PATIENCE)[0]:
                raise subprocess.TimeoutExpired("chatlm", PATIENCE)
            received = os.read(pipe, 4096)
            assert received, "the server of programs ended"
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, int] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()


@cache
def _server() -> _Server:
    server = _Server()
    atexit.register(server.close)
    return server
