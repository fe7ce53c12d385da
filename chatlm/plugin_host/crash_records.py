"""Records of plugins that crashed the process while they were loaded or started.

A file per plugin and step is open while that step runs. Python's fault handler writes to it when
the process ends by a fatal signal such as SIGSEGV or SIGABRT. An end from outside (SIGKILL,
SIGTERM, SIGHUP, a power cut) writes nothing, and so counts for nothing.
"""

from __future__ import annotations

import faulthandler
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from chatlm.config import paths

Step = Literal["import", "startup"]

MAX_CRASHES = 2
"""After this many crashes in a row in one step a plugin is not simply loaded again."""

_CRASH_PATTERN = re.compile(r"^(?:Fatal Python error: |Ended by )(.+)$", re.MULTILINE)


@contextmanager
def recorded_crashes(plugin: str, step: Step) -> Iterator[None]:
    """Record it if the process crashes inside; a step that is left alive clears its record.

    Where no file can be written, nothing is recorded.
    """
    path = _record_file(plugin, step)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab", buffering=0)
    except OSError:
        yield
        return
    with file:
        was_enabled = faulthandler.is_enabled()
        faulthandler.enable(file, all_threads=False)
        try:
            with _recorded_exit(file):
                yield
        finally:
            faulthandler.disable()
            if was_enabled and sys.__stderr__ is not None:  # by -X faulthandler or its variable
                faulthandler.enable(sys.__stderr__)
            path.unlink(missing_ok=True)


def crashes_in_a_row(plugin: str) -> list[str]:
    """Return how the plugin crashed in its latest loads, such as `Segmentation fault`.

    Empty unless it was `MAX_CRASHES` times in one step, and none without a crash between them.
    """
    for step in ("import", "startup"):
        try:
            record = _record_file(plugin, step).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        crashes = _CRASH_PATTERN.findall(record)
        if len(crashes) >= MAX_CRASHES:
            return crashes
    return []


def clear_crashes(plugin: str) -> None:
    """Forget the plugin's crashes."""
    for step in ("import", "startup"):
        _record_file(plugin, step).unlink(missing_ok=True)


def _record_file(plugin: str, step: Step) -> Path:
    return paths.data_dir() / "loading" / (plugin if step == "import" else f"{plugin}.{step}")


@contextmanager
def _recorded_exit(file: Any) -> Iterator[None]:
    """Record a call of `os._exit` too, which ends the process without any signal or exception."""
    exit_process, process = os._exit, os.getpid()

    def record_and_exit(status: int) -> None:
        if os.getpid() == process:  # and not a child of it, which has to end so
            file.write(f"Ended by os._exit({status})\n".encode())
        exit_process(status)

    os._exit = record_and_exit  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = exit_process
