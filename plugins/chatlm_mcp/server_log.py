"""A file for what a server writes to standard error, with a limited size."""

from __future__ import annotations

import re
from pathlib import Path
from threading import Lock

from chatlm import data_dir, escape_controls

_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")

MAX_LOG_BYTES = 500_000
"""Of the newest file; the one before is kept as well."""


class ServerLog:
    """The log of one server. Thread-safe; what cannot be written is lost, never an error.

    Args:
        name: the server's.
    """

    def __init__(self, name: str) -> None:
        self.path = log_path(name)
        self._lock = Lock()

    def write(self, data: bytes) -> None:
        """Append bytes, whatever they are."""
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self.path.exists() and self.path.stat().st_size > MAX_LOG_BYTES:
                    self.path.replace(self.path.with_suffix(".old.log"))
                with self.path.open("ab") as file:
                    file.write(data[-MAX_LOG_BYTES:])
            except OSError:
                return

    def tail(self, lines: int) -> list[str]:
        """Return the last lines, safe to show and without their colours."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, self.path.stat().st_size - 400 * lines - 1))
                data = file.read()
        except OSError:
            return []
        text = _COLOURS.sub("", data.decode("utf-8", "replace"))
        return [escape_controls(line) for line in text.splitlines()[-lines:]]


def log_path(name: str) -> Path:
    """Return the path of a server's log."""
    return data_dir() / "mcp" / "logs" / f"{re.sub('[^A-Za-z0-9_-]', '_', name)}.log"
