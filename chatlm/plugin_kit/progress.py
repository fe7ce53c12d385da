"""Progress bars on stderr, and Ctrl-C that lets long work finish its current step."""

from __future__ import annotations

import re
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
from chatlm.text import one_line
from chatlm.types.progress import ProgressReporter

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextmanager
def graceful_interrupt() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C stop the work after its current step, and the second one at once.

        with graceful_interrupt() as should_stop:
            for step in steps:
                step.run()
                if should_stop():
                    break

    Outside the main thread Ctrl-C is left alone, and the function always returns False.

    Yields:
        A function that returns whether Ctrl-C was pressed; call it after each step.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return

    def handle_interrupt(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    previous = signal.signal(signal.SIGINT, handle_interrupt)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def progress_bar() -> Iterator[ProgressReporter]:
    """Show a bar on a terminal, otherwise a line for each tenth and each new note; on stderr.

        with progress_bar() as progress:
            for number, path in enumerate(paths, 1):
                read(path)
                progress.update(number, len(paths), path.name)

    Yields:
        The same reporter as `ui.progress`; its `cancelled` is always False, since Ctrl-C raises
        `KeyboardInterrupt`.
    """
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
    cancelled = False

    def __init__(self) -> None:
        self._last: tuple[int, str] | None = None

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        tenth = done * 10 // total if total else 0
        activity = "" if total else note
        if (tenth, activity) != self._last:
            self._last = (tenth, activity)
            click.echo(
                f"{tenth * 10} % {one_line(note, 60)}" if total else one_line(note, 60), err=True
            )


@contextmanager
def step_bar(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr for a known number of steps; nothing unless stderr is a terminal.

        with step_bar(len(texts), "classifying") as advance:
            for text in texts:
                classify(text)
                advance(1)

    Args:
        total: number of steps; with fewer than two no bar is shown.
        label: what is being done.

    Yields:
        A function that takes the number of steps done since its last call.
    """
    hidden = not sys.stderr.isatty() or total < 2
    with click.progressbar(length=total, label=label, file=sys.stderr, hidden=hidden) as bar:
        yield bar.update


_STAGE_LABELS: dict[Stage, tuple[str, str]] = {
    "wait": ("Waiting", "another chatlm is pulling this model"),
    "download": ("Downloading", "size not known yet"),
    "unpack": ("Unpacking", ""),
    "prepare": ("Reading", "its settings and tokens, only this once"),
    "copy": ("Copying", ""),
    "check": ("Checking", ""),
    "compile": ("Compiling", "the decoder for this processor, only this once"),
}
"""Each stage's label, and the note shown while its size is unknown."""


@contextmanager
def pull_progress() -> Iterator[ProgressCallback]:
    """Show how far a model's pull is: a bar on a terminal, otherwise lines; on stderr.

        with pull_progress() as progress:
            model = ensure_model("qwen3-0.6b", progress)

    Yields:
        The callback for `ensure_model`.
    """
    if not sys.stderr.isatty():
        yield _pull_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(20),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
    )
    bars = Progress(*columns, console=Console(stderr=True), transient=True)
    tasks: dict[Stage, TaskID] = {}

    def draw(stage: Stage, done: int, total: int | None) -> None:
        bars.start()  # here, since a model that is already local needs no bar
        if stage not in tasks:
            for earlier in tasks.values():
                bars.update(earlier, visible=False)
            tasks[stage] = bars.add_task(_STAGE_LABELS[stage][0], total=total, amount="")
        amount = _stage_amount(stage, done, total)
        bars.update(tasks[stage], completed=done, total=total, amount=amount)

    try:
        yield draw
    finally:
        bars.stop()


def status_lines() -> Callable[[str], None]:
    """Return a function that prints what is being done, one line for each step; on stderr.

    A percentage at the end of a text is rewritten in place on a terminal; elsewhere only the first
    of a step is printed, and every tenth. A text that comes again is printed once.
    """
    is_terminal = sys.stderr.isatty()
    shown = step = ""
    tenth = 0

    def report(text: str) -> None:
        nonlocal shown, step, tenth
        line = one_line(text, 120)
        if line == shown:
            return
        found = re.fullmatch(r"(.*?)\s*(\d+) ?%", line)
        is_same_step = found is not None and found[1] == step
        now = int(found[2]) // 10 if found else 0
        if is_same_step and not is_terminal and now == tenth:
            return
        shown, step, tenth = line, found[1] if found else "", now
        over = "\x1b[1A\x1b[2K" if is_same_step and is_terminal else ""
        click.echo(over + line, err=True)

    return report


def _stage_amount(stage: Stage, done: int, total: int | None) -> str:
    if not total:
        return _STAGE_LABELS[stage][1]
    return f"{done * 100 // total} %, {human_bytes(done)} of {human_bytes(total)}"


def _pull_lines() -> ProgressCallback:
    last: tuple[Stage, int] | None = None

    def print_line(stage: Stage, done: int, total: int | None) -> None:
        nonlocal last
        tenth = done * 10 // total if total else 0
        if (stage, tenth) != last:
            last = (stage, tenth)
            click.echo(
                f"{_STAGE_LABELS[stage][0]} {_stage_amount(stage, done, total)}".rstrip(), err=True
            )

    return print_line
