"""Checkpoints of unfinished training runs, to resume from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlm import write_atomically
from chatlm.plugin_kit.training_runs import TrainingRuns
from chatlm_lora import adapter_files
from chatlm_lora.library import ADAPTERS

RUNS = TrainingRuns(ADAPTERS, "chatlm adapters train")
ALIGNMENT_RUNS = TrainingRuns(ADAPTERS, "chatlm align train")


_BASE_RESULT_FILE = "before.json"


STATE_FILE = "trainer_state.json"
"""The last file that transformers writes to a checkpoint."""


@dataclass(frozen=True)
class HeldOutResult:
    """A model's loss and answers on the held-out examples."""

    loss: float
    answers: tuple[str, ...]
    """Answers to the sample prompts."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """More than the loss, by name."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "loss": self.loss,
            "answers": list(self.answers),
            "measures": dict(self.measures),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HeldOutResult:
        """Restore from `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: the values are not valid.
        """
        return cls(
            loss=float(values["loss"]),
            answers=tuple(values["answers"]),
            measures=values.get("measures", {}),
        )


@dataclass(frozen=True)
class UnfinishedRun:
    """The checkpoints in the folder of a training run."""

    folder: Path
    runs: TrainingRuns = RUNS
    """Of the command that trains."""

    def latest_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint, or None; incomplete ones are deleted."""
        whole: list[tuple[int, Path]] = []
        for path in self.folder.glob("checkpoint-*"):
            step = _checkpoint_step(path)
            if step is None:
                shutil.rmtree(path, ignore_errors=True)
            else:
                whole.append((step, path))
        return max(whole)[1] if whole else None

    def best_candidates(self) -> list[Path]:
        """Return the newest checkpoint, and the one with the lowest held-out loss if it is another.

        The newest one may be better, since Ctrl-C saves one without an evaluation.
        """
        newest = self.latest_checkpoint()
        if newest is None:
            return []
        state = json.loads((newest / STATE_FILE).read_bytes())
        best = self.folder / f"checkpoint-{state.get('best_global_step')}"
        return [newest] if best == newest or _checkpoint_step(best) is None else [newest, best]

    def save_base_result(self, base_result: HeldOutResult) -> None:
        """Save the base model's result."""
        write_atomically(self.folder / _BASE_RESULT_FILE, [json.dumps(base_result.to_dict())])

    def load_base_result(self) -> HeldOutResult | None:
        """Return the base model's result; None if it was not measured yet."""
        try:
            return HeldOutResult.from_dict(
                json.loads((self.folder / _BASE_RESULT_FILE).read_bytes())
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _checkpoint_step(checkpoint: Path) -> int | None:
    """Return the step of a checkpoint; None if it is incomplete."""
    try:
        adapter_files.read_tensor_table(checkpoint / adapter_files.WEIGHTS_FILE)
        return int(json.loads((checkpoint / STATE_FILE).read_bytes())["global_step"])
    except (OSError, ValueError, KeyError, TypeError, adapter_files.InvalidAdapterFile):
        return None
