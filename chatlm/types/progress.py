"""The progress of a long operation."""

from __future__ import annotations

from typing import Protocol


class ProgressReporter(Protocol):
    """The progress of a long operation of a plugin."""

    @property
    def cancelled(self) -> bool:
        """Whether the user cancelled it; check between steps."""
        ...

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Show the progress.

        Args:
            done: completed steps.
            total: all steps; None if unknown.
            note: the current activity, in a few words.
        """
