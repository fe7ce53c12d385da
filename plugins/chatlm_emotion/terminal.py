"""A training as the terminal shows it: a bar with its checks; elsewhere plain lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from chatlm import one_line
from chatlm_emotion.watching import ClassifierProgress, ProgressListener

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


@contextmanager
def show_progress() -> Iterator[ProgressListener]:
    """Show a training on stderr while it lasts."""
    if not sys.stderr.isatty():
        yield _PlainLines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    with Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bars:
        yield _BarDisplay(bars, bars.add_task("", total=None))


def describe_progress(progress: ClassifierProgress) -> str:
    """How far a training is, in one line."""
    if not progress.total_steps:
        return f"{progress.activity} …"
    parts = [f"step {progress.step}/{progress.total_steps}"]
    if progress.train_losses:
        last = progress.train_losses[-50:]
        parts.append(f"loss {sum(last) / len(last):.3f}")
    if progress.eval_results:
        parts.append(f"held-out accuracy {progress.eval_results[-1].accuracy:.3f}")
    return " · ".join([*parts, progress.activity] if progress.activity else parts)


class _BarDisplay(ProgressListener):
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def update(self, progress: ClassifierProgress) -> None:
        self._bars.update(
            self._task,
            description=one_line(describe_progress(progress), 100),
            completed=progress.step,
            total=progress.total_steps or None,
        )


class _PlainLines(ProgressListener):
    """A line for each new kind of work, each tenth of the steps, and each check."""

    def __init__(self) -> None:
        self._last: tuple[str, int, int] | None = None

    def update(self, progress: ClassifierProgress) -> None:
        tenth = progress.step * 10 // progress.total_steps if progress.total_steps else 0
        now = (progress.activity, tenth, len(progress.eval_results))
        if now != self._last:
            self._last = now
            click.echo(one_line(describe_progress(progress), 200), err=True)
