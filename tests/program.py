"""Run `chatlm …` as a process of its own, without waiting for its imports each time."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pexpect.fdpexpect import fdspawn

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
        order = _order(arguments, environment, folder, streams=list(map(str, streams)))
        code = _server().wait(_server().start(order))
        output, errors = (path.read_bytes().decode() for path in streams[1:])
    return subprocess.CompletedProcess(list(arguments), code, output, errors)


class ProgramAside:
    """`chatlm …` that runs beside the test, which waits for files to show how far it is.

    A fork too; what it writes to its standard streams is read when it has ended.
    """

    def __init__(self, *arguments: str) -> None:
        self._folder = TemporaryDirectory()
        self._streams = [Path(self._folder.name, name) for name in ("stdin", "stdout", "stderr")]
        self._streams[0].touch()
        order = _order(arguments, os.environ, None, streams=list(map(str, self._streams)))
        self.pid = _server().start(order)

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return _server().has_ended(self.pid)

    def end_by(self, number: int) -> subprocess.CompletedProcess[str]:
        """Send it a signal, and wait for its end."""
        os.kill(self.pid, number)
        code = _server().wait(self.pid)
        output, errors = (path.read_bytes().decode() for path in self._streams[1:])
        self._folder.cleanup()
        return subprocess.CompletedProcess([], code, output, errors)


class ProgramInTerminal(fdspawn):  # type: ignore[misc]
    """`chatlm …` in a pseudo-terminal; has what the tests use of `pexpect.spawn`.

    A fork too, but one that ends as any Python program does.
    """

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str],
        folder: Path | None,
        dimensions: tuple[int, int],
    ) -> None:
        ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, dimensions)
        super().__init__(ours, timeout=None)
        order = _order(arguments, environment, folder, terminal=os.ttyname(theirs))
        self.pid = _server().start(order)
        os.close(theirs)
        self.exitstatus: int | None = None
        self.signalstatus: int | None = None

    def wait(self) -> None:
        """Wait for its end."""
        if self.exitstatus is None and self.signalstatus is None:
            code = _server().wait(self.pid)
            if code < 0:
                self.signalstatus = -code
            else:
                self.exitstatus = code

    def kill(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def close(self, force: bool = True) -> None:
        """Close the terminal, and end the program."""
        super().close()
        if force and not _server().has_ended(self.pid):
            with suppress(ProcessLookupError):  # it may end by itself just now
                self.kill(signal.SIGKILL)
            self.wait()


def _order(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path | None, **more: Any
) -> dict[str, Any]:
    return {
        "arguments": list(arguments),
        "environment": dict(environment),
        "folder": str(folder or Path.cwd()),
        **more,
    }


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
        self._started: list[int] = []
        self._ended: dict[int, int] = {}
        """Exit codes, negative after a signal, by process id."""

    def start(self, order: dict[str, Any]) -> int:
        """Start a program; returns its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        while not self._started:
            self._hear(PATIENCE)
        pid = self._started.pop()
        self._ended.pop(pid, None)
        return pid

    def wait(self, pid: int) -> int:
        """Wait for a program's end; returns its exit code, negative after a signal.

        Raises:
            subprocess.TimeoutExpired: it did not end and was killed.
        """
        try:
            while pid not in self._ended:
                self._hear(PATIENCE)
        except subprocess.TimeoutExpired:
            os.kill(pid, signal.SIGKILL)
            raise
        return self._ended[pid]

    def has_ended(self, pid: int) -> bool:
        """Whether a program has ended."""
        with suppress(subprocess.TimeoutExpired):
            while pid not in self._ended:
                self._hear(0)
        return pid in self._ended

    def _hear(self, seconds: float) -> None:
        """Take what the server tells next."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._received:
            if not select.select([pipe], [], [], seconds)[0]:
                raise subprocess.TimeoutExpired("chatlm", seconds)
            received = os.read(pipe, 4096)
            assert received, "the server of programs ended"
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        told = json.loads(line)
        if "returncode" in told:
            self._ended[told["pid"]] = told["returncode"]
        else:
            self._started.append(told["pid"])

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()


@cache
def _server() -> _Server:
    server = _Server()
    atexit.register(server.close)
    return server
