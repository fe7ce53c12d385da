"""What a training reports; knows no terminal and no torch."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EvalResult:
    """How well the held-out texts were classified at a step."""

    step: int
    accuracy: float
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "step": self.step,
            "accuracy": self.accuracy,
            "loss": self.loss,
        }


@dataclass
class ClassifierProgress:
    """How far a training is."""

    total_steps: int = 0
    """In all; 0 before it is known."""
    step: int = 0
    tokens: int = 0
    """Learnt from so far, padding aside."""
    train_losses: list[float] = field(default_factory=list)
    """One a step."""
    eval_results: list[EvalResult] = field(default_factory=list)
    activity: str = ""
    """What is being done besides the steps."""
    end_reason: str = "after all epochs"
    _started_at: float = 0.0

    def start(self) -> None:
        """The first step begins."""
        self._started_at = time.monotonic()

    def add_step(self, loss: float, tokens: int) -> None:
        """A step is done."""
        self.step += 1
        self.tokens += tokens
        self.train_losses.append(loss)

    def add_eval(self, result: EvalResult) -> bool:
        """A check is done; whether it is the best so far."""
        before = self.best
        self.eval_results.append(result)
        return before is None or result.loss < before.loss

    @property
    def best(self) -> EvalResult | None:
        """The check with the lowest loss, which is steadier than the accuracy of a few texts."""
        return min(self.eval_results, key=lambda check: check.loss, default=None)

    @property
    def evals_since_best(self) -> int:
        """Checks after the best one."""
        best = self.best
        return len(self.eval_results) - 1 - self.eval_results.index(best) if best else 0

    @property
    def elapsed_seconds(self) -> float:
        """Since the first step began."""
        return time.monotonic() - self._started_at

    @property
    def seconds_left(self) -> float | None:
        """About how long it will take, early stopping aside; None before the first step."""
        return (
            self.elapsed_seconds / self.step * (self.total_steps - self.step) if self.step else None
        )


class ProgressListener:
    """Is told whenever `Progress` changed; this one does nothing with it."""

    def update(self, progress: ClassifierProgress) -> None:
        """Show it."""
