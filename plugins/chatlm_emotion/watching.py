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

    steps: int = 0
    """In all; 0 before it is known."""
    step: int = 0
    tokens: int = 0
    """Learnt from so far, padding aside."""
    losses: list[float] = field(default_factory=list)
    """One a step."""
    checks: list[EvalResult] = field(default_factory=list)
    note: str = ""
    """What is being done besides the steps."""
    ended: str = "after all epochs"
    _since: float = 0.0

    def begin(self) -> None:
        """The first step begins."""
        self._since = time.monotonic()

    def stepped(self, loss: float, tokens: int) -> None:
        """A step is done."""
        self.step += 1
        self.tokens += tokens
        self.losses.append(loss)

    def checked(self, check: EvalResult) -> bool:
        """A check is done; whether it is the best so far."""
        before = self.best
        self.checks.append(check)
        return before is None or check.loss < before.loss

    @property
    def best(self) -> EvalResult | None:
        """The check with the lowest loss, which is steadier than the accuracy of a few texts."""
        return min(self.checks, key=lambda check: check.loss, default=None)

    @property
    def checks_since_best(self) -> int:
        """Checks after the best one."""
        best = self.best
        return len(self.checks) - 1 - self.checks.index(best) if best else 0

    @property
    def seconds(self) -> float:
        """Since the first step began."""
        return time.monotonic() - self._since

    @property
    def seconds_left(self) -> float | None:
        """About how long it will take, early stopping aside; None before the first step."""
        return self.seconds / self.step * (self.steps - self.step) if self.step else None


class ProgressListener:
    """Is told whenever `Progress` changed; this one does nothing with it."""

    def changed(self, progress: ClassifierProgress) -> None:
        """Show it."""
