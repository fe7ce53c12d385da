"""What a training reports, and the curve of its losses as text; knows no terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

LossPoint = tuple[int, float]
"""A step and a loss."""


@dataclass
class TrainingProgress:
    """How far a training is."""

    total_steps: int = 0
    """In all; 0 before it is known."""
    step: int = 0
    tokens: int = 0
    """Read since this process began to train."""
    train_losses: list[LossPoint] = field(default_factory=list)
    eval_losses: list[LossPoint] = field(default_factory=list)
    """The held-out losses."""
    base_loss: float | None = None
    """The held-out loss without the adapter."""
    activity: str = ""
    """What is being done besides the steps."""
    start_step: int = 0
    """The step that this process began after."""
    _started_at: float = 0.0

    def start(self, step: int, steps: int) -> None:
        """The training begins, or goes on after `step`."""
        self.step, self.start_step, self.total_steps, self._started_at = (
            step,
            step,
            steps,
            time.monotonic(),
        )

    @property
    def tokens_per_second(self) -> float | None:
        """Speed so far; None before the first step."""
        spent = time.monotonic() - self._started_at
        return self.tokens / spent if self.tokens and spent > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """About how long it will take, early stopping aside; None before the first step."""
        done = self.step - self.start_step
        if not done:
            return None
        return (time.monotonic() - self._started_at) / done * (self.total_steps - self.step)


class ProgressListener:
    """Is told whenever `Progress` changed; this one does nothing with it."""

    def update(self, progress: TrainingProgress) -> None:
        """Show it."""


_BRAILLE_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The dots of a Braille character, from the top, left and right."""


def braille_curve(
    points: Sequence[LossPoint], total_steps: int, low: float, high: float, size: tuple[int, int]
) -> list[str]:
    """Losses as lines of Braille characters, the highest first.

    Args:
        points: to draw.
        total_steps: what the right edge stands for.
        low: the loss at the lower edge.
        high: the loss at the upper edge.
        size: columns and lines.
    """
    columns, lines = size
    cells = [[0] * columns for _ in range(lines)]
    for step, loss in points:
        x = min(int(step / max(total_steps, 1) * columns * 2), columns * 2 - 1)
        share = (high - loss) / (high - low) if high > low else 0.5
        y = min(max(int(share * lines * 4), 0), lines * 4 - 1)
        cells[y // 4][x // 2] |= _BRAILLE_DOTS[y % 4][x % 2]
    return ["".join(chr(0x2800 + cell) for cell in row) for row in cells]
