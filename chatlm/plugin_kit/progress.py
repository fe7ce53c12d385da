"""Progress bars on stderr; Ctrl-C after a step."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import click

from chatlm.hub.disk import human_bytes
from chatlm.hub.jobs import ProgressCallback, Stage

if TYPE_CHECKING:
    from rich.progress import TaskID


@contextmanager
def graceful_interrupt() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C end the work after its step, and a second one at once.

    Yields:
        Whether the work shall end; to be asked after each step. Never, outside the main thread.
    """
    wanted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wanted.is_set
        return

    def press(number: int, frame: FrameType | None) -> None:
        if wanted.is_set():
            raise KeyboardInterrupt
        wanted.set()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield wanted.is_set
    finally:
        signal.signal(signal.SIGINT, before)


_STAGE_LABELS: dict[Stage, tuple[str, str]] = {
    "wait": ("Waiting", "another chatlm is pulling this model"),
    "download": ("Downloading", "size not known yet"),
    "unpack": ("Unpacking", ""),
    "convert": ("Converting", "once, may take a minute"),
    "check": ("Checking", ""),
}
"""What is said of each stage, and beside it while its size is not known."""


@contextmanager
def progress_bars() -> Iterator[ProgressCallback]:
    """A bar on a terminal, else a line for each stage and each tenth of it; both on stderr."""
    if not sys.stderr.isatty():
        yield _line_progress()
        return
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(20),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
    )
    bars = rich_progress.Progress(*columns, console=Console(stderr=True), transient=True)
    tasks: dict[Stage, TaskID] = {}

    def draw(stage: Stage, done: int, total: int | None) -> None:
        bars.start()  # nothing is drawn before there is something to show
        if stage not in tasks:
            for earlier in tasks.values():
                bars.update(earlier, visible=False)
            tasks[stage] = bars.add_task(_STAGE_LABELS[stage][0], total=total, amount="")
        amount = _amount(stage, done, total)
        bars.update(tasks[stage], completed=done, total=total, amount=amount)

    try:
        yield draw
    finally:
        bars.stop()


def _amount(stage: Stage, done: int, total: int | None) -> str:
    return f"{human_bytes(done)} of {human_bytes(total)}" if total else _STAGE_LABELS[stage][1]


def _line_progress() -> ProgressCallback:
    last: tuple[Stage, int] | None = None

    def say(stage: Stage, done: int, total: int | None) -> None:
        nonlocal last
        tenth = done * 10 // total if total else 0
        if (stage, tenth) != last:
            last = (stage, tenth)
            click.echo(
                f"{_STAGE_LABELS[stage][0]} {_amount(stage, done, total)}".rstrip(), err=True
            )

    return say
