"""A long work as the command line shows it: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from chatlm import ProgressReporter, one_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextmanager
def progress_bar() -> Iterator[ProgressReporter]:
    """Show a work on stderr while it lasts; Ctrl-C ends it by its own exception."""
    if not sys.stderr.isatty():
        yield _LineProgress()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(24),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _RichProgress(progress, progress.add_task("", total=None))


class _RichProgress:
    cancelled = False

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        self._progress.update(
            self._task, completed=done, total=total, description=one_line(note, 60)
        )


class _LineProgress:
    """A line for each tenth, and for each new kind of work."""

    cancelled = False

    def __init__(self) -> None:
        self._last: tuple[int, str] | None = None

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        tenth = done * 10 // total if total else 0
        kind = "" if total else note
        if (tenth, kind) != self._last:
            self._last = (tenth, kind)
            click.echo(
                f"{tenth * 10} % {one_line(note, 60)}" if total else one_line(note, 60), err=True
            )
