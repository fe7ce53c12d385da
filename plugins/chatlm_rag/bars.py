"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

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
    """Show progress on stderr; Ctrl-C raises `KeyboardInterrupt` as usual."""
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
    """A progress bar."""

    cancelled = False

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        self._progress.update(
            self._task, completed=done, total=total, description=one_line(note, 60)
        )


class _LineProgress:
    """A line for every 10 % and for each new note without a total."""

    cancelled = False

    def __init__(self) -> None:
        self._last: tuple[int, str] | None = None

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        tenth = done * 10 // total if total else 0
        stage = "" if total else note
        if (tenth, stage) != self._last:
            self._last = (tenth, stage)
            click.echo(
                f"{tenth * 10} % {one_line(note, 60)}" if total else one_line(note, 60), err=True
            )
