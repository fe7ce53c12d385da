"""Fault, its wording; crash marks around loading."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlm.config import paths
from chatlm.errors import ChatlmError
from chatlm.text import one_line

LOADING_STEPS = ("loading", "import", "registration", "settings")
"""Where a plugin may fail before any hook."""


@dataclass(frozen=True)
class Fault:
    """A plugin that failed: which, where, how."""

    plugin: str
    hook: str
    """The hook, one of `LOADING_STEPS`, or another place where it was called."""
    error: str
    dropped: bool = False
    hint: str = ""
    """What to do; empty for what can always be done."""

    def __str__(self) -> str:
        end = " It is left out until chatlm restarts." if self.dropped else ""
        hint = self.hint or (f"More: chatlm logs. Without it: chatlm plugins disable {self.plugin}")
        return f"The plugin {self.plugin} failed in {self.hook}: {self.error}.{end} {hint}"

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "plugin": self.plugin,
            "hook": self.hook,
            "error": self.error,
            "left_out": self.dropped,
            "hint": self.hint,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fault:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            plugin=values["plugin"],
            hook=values["hook"],
            error=values["error"],
            dropped=values.get("left_out", False),
            hint=values.get("hint", ""),
        )


def reraise_interrupt(error: BaseException) -> None:
    """Raise what is no fault of a plugin's: Ctrl-C, which only the main thread ever gets."""
    if isinstance(error, KeyboardInterrupt) and (
        threading.current_thread() is threading.main_thread()
    ):
        raise error


def describe_error(error: BaseException) -> str:
    """What a stranger's exception says, on one line, without a full stop."""
    if isinstance(error, ChatlmError):
        return one_line(error.message, 300).rstrip(".")
    try:
        said = str(error)
    except Exception:  # a stranger's exception may not even have words
        said = "it cannot say what"
    return one_line(": ".join(filter(None, (type(error).__name__, said))), 300).rstrip(".")


def _crash_mark_folder() -> Path:
    return paths.data_dir() / "loading"


@contextmanager
def crash_mark(name: str) -> Iterator[bool]:
    """Leave a mark while a plugin is loaded; gives False if an earlier process left one.

    Another chatlm that loads the same plugin at this moment is no crash: its lock says that it
    lives. Where no file can be written, nothing is remembered.
    """
    from filelock import FileLock, Timeout

    mark = _crash_mark_folder() / name
    lock = FileLock(_crash_mark_folder() / f".{name}.lock")
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except (OSError, Timeout):
        yield True
        return
    try:
        if has_crash_mark(name):
            yield False
            return
        with suppress(OSError):
            mark.touch()
        try:
            yield True
        finally:
            mark.unlink(missing_ok=True)
    finally:
        lock.release()


def has_crash_mark(name: str) -> bool:
    """Whether a process ended while it loaded the plugin; true too while another one does."""
    return (_crash_mark_folder() / name).exists()


def clear_crash_mark(name: str) -> bool:
    """Let the plugin be loaded again; returns whether it was left out."""
    mark = _crash_mark_folder() / name
    was = mark.exists()
    mark.unlink(missing_ok=True)
    return was
