"""A training as the terminal shows it: its curve, speed and time left; elsewhere plain lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from chatlm import one_line
from chatlm_lora.watching import LossPoint, ProgressListener, TrainingProgress, braille_curve

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

CHART_LINES = 8
"""Of the curve."""

_EMPTY_BRAILLE = "\u2800"
"""A Braille character without dots."""


@contextmanager
def show_progress() -> Iterator[ProgressListener]:
    """Show a training on stderr while it lasts."""
    if not sys.stderr.isatty():
        yield _PlainLines()
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        yield _LiveDisplay(live)


class _LiveDisplay(ProgressListener):
    def __init__(self, live: Live) -> None:
        self._live = live

    def update(self, progress: TrainingProgress) -> None:
        self._live.update(render_progress(progress, self._live.console.width))


def render_progress(progress: TrainingProgress, width: int) -> Text:
    """The curve with its scale, and below it how far the training is.

    Args:
        progress: to show.
        width: columns of the terminal.
    """
    from rich.text import Text

    text = Text()
    losses = [loss for _, loss in [*progress.train_losses, *progress.eval_losses]]
    if progress.base_loss is not None:
        losses.append(progress.base_loss)
    if progress.train_losses:
        low, high = min(losses), max(losses)
        size = (max(min(width - 9, 100), 10), CHART_LINES)
        for number, line in enumerate(_overlay_curves(progress, low, high, size)):
            label = {0: f"{high:.3f}", CHART_LINES - 1: f"{low:.3f}"}.get(number, "")
            text.append(f"{label:>7} ", style="dim")
            text.append(line)
            text.append("\n")
    text.append(one_line(describe_progress(progress), 200))
    return text


def _overlay_curves(
    progress: TrainingProgress, low: float, high: float, size: tuple[int, int]
) -> Iterator[Text]:
    """The lines of both curves; a cell with a check in it has the colour of the checks."""
    from rich.text import Text

    checks: list[LossPoint] = list(progress.eval_losses)
    if progress.base_loss is not None:
        checks.insert(0, (0, progress.base_loss))
    both = (
        braille_curve(points, progress.total_steps, low, high, size)
        for points in (progress.train_losses, checks)
    )
    for trained, checked in zip(*both, strict=True):
        line = Text()
        for one, other in zip(trained, checked, strict=True):
            here = other != _EMPTY_BRAILLE
            cell = chr(ord(one) | ord(other))
            line.append(cell, style="bold bright_yellow" if here else "cyan")
        yield line


def describe_progress(progress: TrainingProgress) -> str:
    """How far the training is, in one line."""
    if not progress.total_steps:
        return f"{progress.activity} …"
    parts = [f"step {progress.step}/{progress.total_steps}"]
    if (left := progress.seconds_left) is not None and progress.step < progress.total_steps:
        parts.append(f"{_format_duration(left)} left")
    if progress.train_losses:
        parts.append(f"loss {progress.train_losses[-1][1]:.3f}")
    if progress.eval_losses:
        base = f" (base {progress.base_loss:.3f})" if progress.base_loss is not None else ""
        parts.append(f"held-out {progress.eval_losses[-1][1]:.3f}{base}")
    if speed := progress.tokens_per_second:
        parts.append(f"{speed:,.0f} tokens/s")
    return " · ".join([*parts, progress.activity] if progress.activity else parts)


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes}:{rest:02}"


class _PlainLines(ProgressListener):
    """A line for each new kind of work, each tenth of the steps, and each check."""

    def __init__(self) -> None:
        self._last: tuple[str, int, int] | None = None

    def update(self, progress: TrainingProgress) -> None:
        tenth = progress.step * 10 // progress.total_steps if progress.total_steps else 0
        now = (progress.activity, tenth, len(progress.eval_losses))
        if now != self._last:
            self._last = now
            click.echo(one_line(describe_progress(progress), 200), err=True)
