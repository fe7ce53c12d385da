"""Ties transformers' Trainer to a watcher and to what stops it between two steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from chatlm_lora.watching import Progress, Watcher


class Reporter(TrainerCallback):
    """Reports each step and each check.

    Args:
        progress: is kept up to date.
        watcher: is told of it.
        stopped: is asked after each step; then the state is checked and kept before the end.
    """

    def __init__(self, progress: Progress, watcher: Watcher, stopped: Callable[[], bool]) -> None:
        self._progress = progress
        self._watcher = watcher
        self._stopped = stopped
        self._tokens = 0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **more: Any,
    ) -> None:
        """See `TrainerCallback`."""
        for entry in state.log_history:  # of a training that goes on
            self._take(int(entry.get("step", 0)), entry)
        self._progress.note = ""
        self._progress.begin(state.global_step, state.max_steps)
        self._tokens = int(state.num_input_tokens_seen)
        self._watcher.changed(self._progress)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **more: Any,
    ) -> None:
        """See `TrainerCallback`."""
        self._progress.step = state.global_step
        self._progress.tokens = int(state.num_input_tokens_seen) - self._tokens
        if self._stopped():
            self._progress.note = "stopping; the best so far is kept"
            control.should_evaluate = control.should_save = control.should_training_stop = True
        self._watcher.changed(self._progress)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **more: Any,
    ) -> None:
        """See `TrainerCallback`."""
        self._take(state.global_step, logs or {})
        self._watcher.changed(self._progress)

    def _take(self, step: int, logs: dict[str, float]) -> None:
        if "loss" in logs:
            self._progress.train.append((step, logs["loss"]))
        if "eval_loss" in logs:
            self._progress.checks.append((step, logs["eval_loss"]))
