"""Runs a helper process to its end, watching it; the process dies when the pull is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from chatlm.models.progress import Cancelled, check_cancelled

_TICK_SECONDS = 0.1


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of chatlm in a new interpreter, whatever folder we are in."""
    root = str(Path(__file__).parents[2])
    start = (
        "import sys, runpy; sys.path.append(sys.argv.pop(1)); "
        "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-P", "-c", start, root, module, *arguments]


def run_child(
    command: Sequence[str],
    log: Path,
    *,
    tick: Callable[[], None],
    cancelled: Cancelled,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a command with all it prints going to `log`; return its exit status.

    `tick` is called about ten times a second. When it raises, or Ctrl-C comes, or `cancelled` says
    so, the process is ended first.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        try:
            while process.poll() is None:
                check_cancelled(cancelled)
                tick()
                time.sleep(_TICK_SECONDS)
        finally:
            _end(process)
    tick()
    return process.returncode


def end_with_parent() -> None:
    """In a helper process: end soon after the pull's own process died without a word."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def last_lines(log: Path, count: int = 12) -> str:
    """The end of what a process printed, for an error message."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "\n".join(lines[-count:])


def was_killed(status: int) -> bool:
    """Whether the system killed the process, as it does when memory runs out."""
    return os.name != "nt" and status == -signal.SIGKILL


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
