"""Progress of a classifier's training: evaluations, the best one, and why it ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from chatlm.plugin_kit.training import TrainingProgress

LOSS_WINDOW = 50
"""Steps over which the training loss is averaged; that of one step is noisy."""


@dataclass(frozen=True)
class EvalResult:
    """Accuracy and loss on the held-out texts at one step."""

    step: int
    accuracy: float
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "step": self.step,
            "accuracy": self.accuracy,
            "loss": self.loss,
        }


@dataclass
class ClassifierProgress(TrainingProgress):
    """Progress of a classifier's training, with the evaluations that decide when to stop."""

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
            self.add_eval(EvalResult(result["step"], result["accuracy"], result["loss"]))
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
