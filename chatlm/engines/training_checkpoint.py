"""The checkpoint of a training run that is written in torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from chatlm.errors import ChatlmError

_FILE = "checkpoint.safetensors"
_LEARNT, _BEST, _OPTIMIZER, _RANDOM = "learnt/", "best/", "optimizer/", "random"


@dataclass(frozen=True)
class TrainingCheckpoint:
    """The only checkpoint of a run: each one replaces the one before.

    checkpoint = TrainingCheckpoint(folder)
    best = checkpoint.load(parameters, optimizer, progress.restore) or {}
    for step in range(progress.step, total_steps):
        train_step()
        if should_stop():
            checkpoint.save(parameters, best, optimizer, progress.to_dict())
    """

    folder: Path
    """Of the run, see `chatlm.plugin_kit.training_runs`."""

    def save(
        self,
        learnt: Mapping[str, Tensor],
        best: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        progress: Mapping[str, Any],
    ) -> None:
        """Save all that the next step depends on, the best weights so far and torch's seed.

        Args:
            learnt: the trainable parameters.
            best: their values at the best evaluation; empty before the first.
            optimizer: of the parameters, in the same order.
            progress: of the run, as JSON values.

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
                metadata={"progress": json.dumps(progress)},
            )
        except SafetensorError as error:
            raise OSError(str(error)) from error
        new.replace(self.folder / _FILE)

    def load(
        self,
        learnt: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer | None,
        restore_progress: Callable[[Mapping[str, Any]], None],
    ) -> dict[str, Tensor] | None:
        """Load the checkpoint into the parameters, the optimizer and torch's seed.

        Args:
            learnt: the trainable parameters.
            optimizer: of the parameters, in the same order; None if training does not go on.
            restore_progress: takes what `save` was given; it raises KeyError, TypeError or
                ValueError if that is not valid.

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
                restore_progress(json.loads(file.metadata()["progress"]))
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
