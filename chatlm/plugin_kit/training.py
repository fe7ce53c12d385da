"""Progress of a training run: a loss curve on a terminal, plain lines elsewhere; Ctrl-C."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from chatlm.errors import EXIT_INTERRUPTED, ChatlmError
from chatlm.plugin_kit.progress import graceful_interrupt
from chatlm.text import one_line

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

CHART_LINES = 8
"""Height of the loss curve."""

SAMPLE_CHARACTERS = 300
"""Characters of a sample that are shown."""

LOSS_WINDOW = 50
"""Steps over which `EvaluatedProgress` averages the training loss; that of one step is noisy."""

LossPoint = tuple[int, float]
"""A step and its loss."""


class TrainingStopped(ChatlmError):
    """The user stopped a training run before there was anything to save."""

    exit_code = EXIT_INTERRUPTED


@dataclass
class TrainingProgress:
    """How far a training run is; the trainer updates it and passes it to a listener.

    progress = TrainingProgress(activity="loading the model")
    progress.start(0, total_steps=100)
    """

    total_steps: int = 0
    """0 until it is known."""
    step: int = 0
    tokens: int = 0
    """Trained on; set before `start` to those of a run that is resumed, to count on from there."""
    train_losses: list[LossPoint] = field(default_factory=list)
    eval_losses: list[LossPoint] = field(default_factory=list)
    """Losses on the held-out examples."""
    base_loss: float | None = None
    """Held-out loss before training; None if it was not measured."""
    accuracy: float | None = None
    """Held-out accuracy at the last evaluation, 0 to 1; None if it was not measured."""
    measures: dict[str, list[LossPoint]] = field(default_factory=dict)
    """Other measures on the held-out examples by name, each drawn as a curve of one line."""
    activity: str = ""
    """What is being done other than training steps."""
    sample: str = ""
    """What the model generates so far, shown below the curve; empty without one."""
    start_step: int = 0
    """The step that this process started after; above 0 when a run is resumed."""
    _started_at: float | None = None
    _start_tokens: int = 0

    def start(self, step: int, total_steps: int) -> None:
        """Start the clock.

        Args:
            step: steps already done; above 0 when a run is resumed.
            total_steps: steps of the whole run.
        """
        self.step = self.start_step = step
        self.total_steps = total_steps
        self._start_tokens = self.tokens
        self._started_at = time.monotonic()

    @property
    def tokens_per_second(self) -> float | None:
        """Speed since `start`; None before the first step."""
        done = self.tokens - self._start_tokens
        if self._started_at is None or not done:
            return None
        elapsed = time.monotonic() - self._started_at
        return done / elapsed if elapsed > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Estimated time left, early stopping aside; None before the first step."""
        done = self.step - self.start_step
        if self._started_at is None or not done:
            return None
        return (time.monotonic() - self._started_at) / done * (self.total_steps - self.step)


@dataclass(frozen=True)
class EvalResult:
    """Loss on the held-out data at one step, and accuracy where it was measured."""

    step: int
    loss: float
    accuracy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        accuracy = {} if self.accuracy is None else {"accuracy": self.accuracy}
        return {"step": self.step, **accuracy, "loss": self.loss}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EvalResult:
        """Restore from `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: the values are not valid.
        """
        accuracy = values.get("accuracy")
        return cls(
            int(values["step"]),
            float(values["loss"]),
            None if accuracy is None else float(accuracy),
        )


@dataclass
class EvaluatedProgress(TrainingProgress):
    """Progress of a run with evaluations, of which the lowest loss decides when to stop.

    progress = EvaluatedProgress()
    progress.add_step(loss=2.5, tokens=128)
    if progress.add_eval(EvalResult(progress.step, loss=2.7)):
        keep_weights()
    """

    eval_results: list[EvalResult] = field(default_factory=list)
    end_reason: str = "after all epochs"
    stopped: bool = False
    """Whether the user stopped the run, which can be continued."""
    _recent_losses: deque[float] = field(default_factory=lambda: deque(maxlen=LOSS_WINDOW))

    def add_step(self, loss: float, tokens: int) -> None:
        """Record a training step."""
        self.step += 1
        self.tokens += tokens
        self._recent_losses.append(loss)
        self.train_losses.append((self.step, fmean(self._recent_losses)))

    def add_eval(self, result: EvalResult) -> bool:
        """Record an evaluation, and return whether it is the best so far."""
        previous_best = self.best
        self.eval_results.append(result)
        self.eval_losses.append((result.step, result.loss))
        self.accuracy = result.accuracy
        return previous_best is None or result.loss < previous_best.loss

    def to_dict(self) -> dict[str, Any]:
        """Return what a checkpoint stores."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "train_losses": self.train_losses,
            "eval_results": [result.to_dict() for result in self.eval_results],
            "recent_losses": list(self._recent_losses),
        }

    def restore(self, values: Mapping[str, Any]) -> None:
        """Restore from `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: the values are not valid.
        """
        self.step = int(values["step"])
        self.tokens = int(values["tokens"])
        self.train_losses = [(int(step), float(loss)) for step, loss in values["train_losses"]]
        for result in values["eval_results"]:
            self.add_eval(EvalResult.from_dict(result))
        self._recent_losses.extend(map(float, values["recent_losses"]))

    @property
    def best(self) -> EvalResult | None:
        """The evaluation with the lowest loss, which is less noisy than accuracy on few texts."""
        return min(self.eval_results, key=lambda result: result.loss, default=None)

    @property
    def evals_since_best(self) -> int:
        """Evaluations after the best one."""
        best = self.best
        return len(self.eval_results) - 1 - self.eval_results.index(best) if best else 0


class ProgressListener:
    """Called whenever a training run's progress changes; this one ignores it."""

    def update(self, progress: TrainingProgress) -> None:
        """Show the progress."""


@contextmanager
def stop_on_interrupt(hint: str, *, after_step: bool = True) -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C stop training after the current step, and the second one at once.

        with stop_on_interrupt("Nothing was saved.") as should_stop:
            for step in range(total_steps):
                train_step()
                if should_stop():
                    break
            save_best()

    Args:
        hint: what to do after a training run that was stopped before anything was saved.
        after_step: False if the first Ctrl-C must stop at once, since other processes would stop
            at another step.

    Yields:
        A function that returns whether Ctrl-C was pressed; call it after each step.

    Raises:
        TrainingStopped: training was stopped at once.
    """
    interrupt = graceful_interrupt() if after_step else nullcontext(lambda: False)
    with interrupt as should_stop:
        try:
            yield should_stop
        except KeyboardInterrupt:
            raise TrainingStopped("Stopped.", hint=hint) from None


@contextmanager
def training_display() -> Iterator[ProgressListener]:
    """Show a training run on stderr: its loss curve on a terminal, plain lines elsewhere.

        with training_display() as listener:
            listener.update(progress)

    Yields:
        The listener that draws; call its `update` after each step.
    """
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


class _PlainLines(ProgressListener):
    """Prints a line for each new activity, tenth of the steps and evaluation."""

    def __init__(self) -> None:
        self._last: tuple[str, int, int] | None = None
        self._sample = ""

    def update(self, progress: TrainingProgress) -> None:
        tenth = progress.step * 10 // progress.total_steps if progress.total_steps else 0
        state = (progress.activity, tenth, len(progress.eval_losses))
        if state != self._last:
            self._last = state
            click.echo(one_line(describe_progress(progress), 200), err=True)
            if progress.sample != self._sample:
                self._sample = progress.sample
                click.echo(f"  {one_line(progress.sample, SAMPLE_CHARACTERS)}", err=True)


def describe_progress(progress: TrainingProgress) -> str:
    """Return the progress as one line of text.

    step 10/40 · 0:30 left · loss 2.500 · held-out 2.750 (base 3.200) · 25 tokens/s
    """
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
    if progress.accuracy is not None:
        parts.append(f"accuracy {progress.accuracy:.3f}")
    parts += [f"{name} {points[-1][1]:.3g}" for name, points in progress.measures.items() if points]
    if speed := progress.tokens_per_second:
        parts.append(f"{speed:,.0f} tokens/s")
    return " · ".join([*parts, progress.activity] if progress.activity else parts)


def render_progress(progress: TrainingProgress, width: int) -> Text:
    """Draw the loss curve with its scale, and the progress and a sample as text below it.

    Args:
        progress: the progress to draw.
        width: columns of the terminal.
    """
    from rich.text import Text

    text = Text()
    losses = [loss for _, loss in [*progress.train_losses, *progress.eval_losses]]
    if progress.base_loss is not None:
        losses.append(progress.base_loss)
    losses = [loss for loss in losses if math.isfinite(loss)]
    if progress.train_losses:
        low, high = min(losses, default=0.0), max(losses, default=0.0)
        size = (max(min(width - 9, 100), 10), CHART_LINES)
        for number, line in enumerate(_overlay_curves(progress, low, high, size)):
            label = {0: f"{high:.3f}", CHART_LINES - 1: f"{low:.3f}"}.get(number, "")
            text.append(f"{label:>7} ", style="dim")
            text.append(line)
            text.append("\n")
    if progress.measures:
        widest = max(map(len, progress.measures))
        for name, points in progress.measures.items():
            text.append(f"{name:>{widest}} ", style="dim")
            text.append(f"{sparkline([value for _, value in points])}\n", style="cyan")
    text.append(one_line(describe_progress(progress), 200))
    if progress.sample:
        text.append(f"\n{one_line(progress.sample, SAMPLE_CHARACTERS)}", style="dim")
    return text


def sparkline(values: Sequence[float]) -> str:
    """Return the values as one line of blocks between their least and their greatest.

    Infinities and NaNs, as of a training that diverges, are blanks.
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        _BLOCKS[round((value - low) * scale)] if math.isfinite(value) else " " for value in values
    )


_BLOCKS = "▁▂▃▄▅▆▇█"


_BRAILLE_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a Braille character's dots: four rows, left and right."""

_EMPTY_BRAILLE = "\u2800"


def braille_curve(
    points: Sequence[LossPoint], total_steps: int, low: float, high: float, size: tuple[int, int]
) -> list[str]:
    """Plot losses in Braille characters.

    Args:
        points: the losses; infinities and NaNs are left out.
        total_steps: the step at the right edge.
        low: the loss at the lower edge.
        high: the loss at the upper edge.
        size: columns and lines.

    Returns:
        The lines of the plot, from the top.
    """
    columns, lines = size
    cells = [[0] * columns for _ in range(lines)]
    for step, loss in points:
        if not math.isfinite(loss):
            continue
        x = min(int(step / max(total_steps, 1) * columns * 2), columns * 2 - 1)
        depth = (high - loss) / (high - low) if high > low else 0.5
        y = min(max(int(depth * lines * 4), 0), lines * 4 - 1)
        cells[y // 4][x // 2] |= _BRAILLE_DOTS[y % 4][x % 2]
    return ["".join(chr(0x2800 + cell) for cell in row) for row in cells]


def _overlay_curves(
    progress: TrainingProgress, low: float, high: float, size: tuple[int, int]
) -> Iterator[Text]:
    """Yield the lines of both curves; cells with a held-out loss have their own colour."""
    from rich.text import Text

    held_out: list[LossPoint] = list(progress.eval_losses)
    if progress.base_loss is not None:
        held_out.insert(0, (0, progress.base_loss))
    curves = (
        braille_curve(points, progress.total_steps, low, high, size)
        for points in (progress.train_losses, held_out)
    )
    for train_line, held_out_line in zip(*curves, strict=True):
        line = Text()
        for train_cell, held_out_cell in zip(train_line, held_out_line, strict=True):
            style = "cyan" if held_out_cell == _EMPTY_BRAILLE else "bold bright_yellow"
            line.append(chr(ord(train_cell) | ord(held_out_cell)), style=style)
        yield line


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes}:{rest:02}"
