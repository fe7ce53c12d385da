"""Checkpoints of a classifier's training run, to continue from or to finish with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from chatlm import ChatlmError
from chatlm.plugin_kit.training_runs import TrainingRuns
from chatlm_emotion.card import CLASSIFIERS
from chatlm_emotion.progress import ClassifierProgress

RUNS = TrainingRuns(CLASSIFIERS, "chatlm emotion train")

_FILE = "checkpoint.safetensors"
_LEARNT, _BEST, _OPTIMIZER, _RANDOM = "learnt/", "best/", "optimizer/", "random"


@dataclass(frozen=True)
class Checkpoint:
    """The only checkpoint of a run: each one replaces the one before."""

    folder: Path

    def save(
        self,
        learnt: Mapping[str, Tensor],
        best: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        progress: ClassifierProgress,
    ) -> None:
        """Save all that the next step depends on, and the best weights so far.

        Args:
            learnt: the trainable parameters.
            best: their values at the best evaluation; empty before the first.
            optimizer: of the parameters, in the same order.
            progress: of the run.

        Raises:
            OSError: the disk is full.
        """
        tensors = {f"{_LEARNT}{name}": value.detach() for name, value in learnt.items()}
        tensors |= {f"{_BEST}{name}": value for name, value in best.items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{_OPTIMIZER}{index}/{key}": value for key, value in state.items()}
        tensors[_RANDOM] = torch.get_rng_state()
        new = self.folder / f"{_FILE}.new"
        try:
            save_file(
                {name: value.contiguous() for name, value in tensors.items()},
                new,
                metadata={"progress": json.dumps(progress.to_dict())},
            )
        except SafetensorError as error:
            raise OSError(str(error)) from error
        new.replace(self.folder / _FILE)

    def load(
        self,
        learnt: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer | None,
        progress: ClassifierProgress,
    ) -> dict[str, Tensor] | None:
        """Load the checkpoint into the parameters, the optimizer, the progress and torch's seed.

        Returns:
            The best weights so far, empty before the first evaluation; None without a checkpoint.

        Raises:
            ChatlmError: the checkpoint is damaged.
        """
        path = self.folder / _FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                progress.restore(json.loads(file.metadata()["progress"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            with torch.no_grad():
                for name, value in learnt.items():
                    value.copy_(tensors[f"{_LEARNT}{name}"])
            if optimizer is not None:
                _load_optimizer(optimizer, tensors)
            torch.set_rng_state(tensors[_RANDOM])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ChatlmError(
                f"The checkpoint {path} is damaged.", hint="Start over with --restart."
            ) from error
        return {
            name.removeprefix(_BEST): value
            for name, value in tensors.items()
            if name.startswith(_BEST)
        }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_OPTIMIZER):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
