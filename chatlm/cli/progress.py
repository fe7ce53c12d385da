"""Bars for long work on a terminal, plain lines elsewhere; both on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from chatlm.models.disk import human_bytes
from chatlm.models.progress import Progress, Stage

_STAGES: dict[str, str] = {
    "wait": "Waiting for another chatlm that pulls it",
    "download": "Downloading",
    "unpack": "Unpacking",
    "convert": "Converting (once, about half a minute)",
    "check": "Checking",
}


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A bar on a terminal, else a line for each stage and each tenth of it; both on stderr."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bars = rich_progress.Progress(*columns, console=Console(stderr=True), transient=True)
    tasks: dict[str, Any] = {}

    def draw(stage: Stage, done: int, total: int | None) -> None:
        bars.start()  # nothing is drawn before there is something to show
        if stage not in tasks:
            tasks[stage] = bars.add_task(_STAGES[stage], total=total)
        bars.update(tasks[stage], completed=done, total=total)

    try:
        yield draw
    finally:
        bars.stop()


def _lines() -> Progress:
    last: tuple[str, int] | None = None

    def say(stage: Stage, done: int, total: int | None) -> None:
        nonlocal last
        tenth = done * 10 // total if total else 0
        if (stage, tenth) == last:
            return
        last = (stage, tenth)
        amount = f" {human_bytes(done)} of {human_bytes(total)}" if total else ""
        click.echo(f"{_STAGES[stage]}{amount}", err=True)

    return say
