"""A long work of a plugin, written by its thread and read by the screen; knows no widget."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from chatlm.text import one_line


@dataclass(frozen=True)
class Stand:
    """How far a work is."""

    done: int = 0
    total: int | None = None
    note: str = ""

    @property
    def share(self) -> float | None:
        """From 0 to 1; None where it is not known."""
        if not self.total or self.total < 0:
            return None
        return min(max(self.done / self.total, 0.0), 1.0)


class ShownWork:
    """See `chatlm.extending.Work`.

    Args:
        title: what is done, in a few words.
        closing: set when chatlm ends, which cancels every work.
    """

    def __init__(self, title: str, closing: threading.Event) -> None:
        self.title = one_line(title, 40)
        self.stand = Stand()
        self._closing = closing
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether the person wants it to end, or chatlm ends."""
        return self._cancelled.is_set() or self._closing.is_set()

    def cancel(self) -> None:
        """Let it end at its next step."""
        self._cancelled.set()

    def at(self, done: int, total: int | None = None, note: str = "") -> None:
        """Say how far it is; may be called as often as wanted."""
        self.stand = Stand(int(done), None if total is None else int(total), one_line(note, 60))
