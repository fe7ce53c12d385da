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

Stage = Literal["wait", "download", "unpack", "prepare", "copy", "check", "compile"]
"""Current step of a job; `wait` while another process downloads the same model."""


CancelCheck = Callable[[], bool]
"""Return True once the user has cancelled."""


STAGE_LABELS: dict[Stage, str] = {
    "wait": "waiting for another chatlm that downloads it",
    "download": "downloading",
    "unpack": "unpacking",
    "prepare": "reading its settings and tokens, only this once",
    "copy": "copying",
    "check": "checking",
    "compile": "compiling the decoder for this processor, only this once",
}


def describe_progress(stage: Stage, done: int, total: int | None) -> str:
    """Describe the current step, with its percentage if known."""
    return f"{STAGE_LABELS[stage]} {done * 100 // total} %" if total else STAGE_LABELS[stage]


class ProgressCallback(Protocol):
    """Called often, from the thread that runs the job."""

    def __call__(self, stage: Stage, done: int, total: int | None) -> None:
        """Report `done` of `total` bytes of a stage; `total` is None if unknown."""


class PullCancelled(ModelError):
    """The user cancelled a download."""


def ignore_progress(stage: Stage, done: int, total: int | None) -> None:
    """Ignore progress."""


def never_cancelled() -> bool:
    """Return False: never cancel."""
    return False


def check_cancelled(cancelled: CancelCheck) -> None:
    """Raise `PullCancelled` if `cancelled` returns True."""
    if cancelled():
        raise PullCancelled("The pull was stopped.", "Run the same command to start again.")


_POLL_SECONDS = 0.1


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module in a new interpreter, from any working directory."""
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
    """Run a command with its output going to `log`; return its exit status.

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
    """End this child process soon after its parent has died."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def last_lines(log: Path, count: int = 12) -> str:
    """Return the last lines of a process's output, for an error message."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "\n".join(lines[-count:])


def was_killed(status: int) -> bool:
    """Tell whether the system killed the process, as it does when memory runs out."""
    return os.name != "nt" and status == -signal.SIGKILL


def _terminate(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
