"""Checkpoints of unfinished training runs, to resume from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlm import UsageError, dump_json, write_atomically
from chatlm_lora import adapter_files, library

_PLAN_FILE, _BASE_RESULT_FILE = "plan.json", "before.json"


_STATE_FILE = "trainer_state.json"
"""The last file that transformers writes to a checkpoint."""


@dataclass(frozen=True)
class HeldOutResult:
    """A model's loss and answers on the held-out examples."""

    loss: float
    answers: tuple[str, ...]
    """Answers to the sample prompts."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "loss": self.loss,
            "answers": list(self.answers),
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
        )


@dataclass(frozen=True)
class UnfinishedRun:
    """The folder of an unfinished training run."""

    folder: Path

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

    def delete(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _checkpoint_step(checkpoint: Path) -> int | None:
    """Return the step of a checkpoint; None if it is incomplete."""
    try:
        adapter_files.read_tensor_table(checkpoint / adapter_files.WEIGHTS_FILE)
        return int(json.loads((checkpoint / _STATE_FILE).read_bytes())["global_step"])
    except (OSError, ValueError, KeyError, TypeError, adapter_files.InvalidAdapterFile):
        return None


@contextmanager
def open_run(
    name: str, plan: Mapping[str, Any], *, restart: bool, is_main_process: bool
) -> Iterator[UnfinishedRun]:
    """Open the training run of an adapter, locked, or resume one that was stopped.

    Args:
        name: name of the adapter.
        plan: everything that determines the result.
        restart: delete an earlier run instead of resuming it.
        is_main_process: whether this process writes; the others only read.

    Raises:
        UsageError: another process trains the adapter, or a run with another plan was stopped.
        ChatlmError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    run = UnfinishedRun(library.ADAPTERS.user_root / f".training-{name}")
    if not is_main_process:
        yield run
        return
    try:
        library.ADAPTERS.user_root.mkdir(parents=True, exist_ok=True)
        with FileLock(library.ADAPTERS.user_root / f".training-{name}.lock", timeout=0):
            if restart:
                run.delete()
            _prepare_folder(run, name, plan)
            yield run
    except Timeout:
        raise UsageError(
            f"Another chatlm is training {name}.", hint="Wait until it is done."
        ) from None
    except OSError as error:
        raise library.ADAPTERS.disk_error(error) from error


def _prepare_folder(run: UnfinishedRun, name: str, plan: Mapping[str, Any]) -> None:
    written = dump_json(plan)
    path = run.folder / _PLAN_FILE
    if not path.is_file():
        run.delete()
        run.folder.mkdir(parents=True)
        write_atomically(path, [written])
    elif path.read_text(encoding="utf-8") != written:
        raise UsageError(
            f"A training of {name} with other data or settings was stopped before.",
            hint="Start over with --restart, or give the same ones to continue it.",
        )
