"""Progress and cancellation of long jobs; child processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from chatlm.errors import ModelError

Stage = Literal["wait", "download", "unpack", "convert", "check"]
"""wait: another process fetches the same model. The others are what is being done."""


CancelCheck = Callable[[], bool]
"""True once the person wants to stop."""


STAGE_LABELS: dict[Stage, str] = {
    "wait": "waiting for another chatlm that fetches it",
    "download": "downloading",
    "unpack": "unpacking",
    "convert": "converting, only this once",
    "check": "checking",
}


def describe_progress(stage: Stage, done: int, total: int | None) -> str:
    """What is being done, with the share that is done where it is known."""
    return f"{STAGE_LABELS[stage]} {done * 100 // total} %" if total else STAGE_LABELS[stage]


class ProgressCallback(Protocol):
    """Called often, from the thread that runs the job."""

    def __call__(self, stage: Stage, done: int, total: int | None) -> None:
        """`done` of `total` bytes of this stage; `total` is None when it is not known."""


class PullCancelled(ModelError):
    """The person stopped a pull."""


def ignore_progress(stage: Stage, done: int, total: int | None) -> None:
    """A `Progress` that shows nothing."""


def never_cancelled() -> bool:
    """A `Cancelled` that never stops a job."""
    return False


def check_cancelled(cancelled: CancelCheck) -> None:
    """Raise `PullCancelled` when `cancelled` says so."""
    if cancelled():
        raise PullCancelled("The pull was stopped.", "Run the same command to start again.")


_POLL_SECONDS = 0.1


def module_command(module: str, *arguments: str) -> list[str]:
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
    on_poll: Callable[[], None],
    cancelled: CancelCheck,
    extra_env: Mapping[str, str] | None = None,
) -> int:
    """Run a command with all it prints going to `log`; return its exit status.

    `on_poll` is called about ten times a second. When it raises, or Ctrl-C comes, or `cancelled`
    says so, the process is ended first.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(extra_env or {})},
        )
        try:
            while process.poll() is None:
                check_cancelled(cancelled)
                on_poll()
                time.sleep(_POLL_SECONDS)
        finally:
            _terminate(process)
    on_poll()
    return process.returncode


def exit_with_parent() -> None:
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


def _terminate(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
