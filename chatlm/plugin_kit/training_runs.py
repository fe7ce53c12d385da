"""Training runs that were stopped: continue them, or save the best that they reached."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlm.config.paths import write_atomically
from chatlm.errors import UsageError
from chatlm.plugin_kit.artifacts import Artifacts
from chatlm.plugin_kit.training import TrainingStopped
from chatlm.text import dump_json

_PLAN_FILE, _OPTIONS_FILE = "plan.json", "options.json"


@dataclass(frozen=True)
class TrainingRuns:
    """The unfinished training runs of artifacts of one kind.

    One rule holds for every training: Ctrl-C keeps a checkpoint and says so, the same command
    continues, and `--finish` turns the best checkpoint so far into an artifact.

    RUNS = TrainingRuns(RECIPES, "chatlm recipes train")
    with RUNS.open("soup", plan, options) as folder:
        for step in range(total_steps):
            train_step()
            if should_stop():
                save_checkpoint(folder)
                raise RUNS.stopped("soup", step, total_steps)
        save_artifact()
    """

    artifacts: Artifacts
    command: str
    """The command that trains; it takes the name, and has --restart and --finish."""

    def hint(self, name: str) -> str:
        """Return what the user can do with a run that was stopped."""
        return (
            f"Run the same command again to continue, or save the best {self.artifacts.kind} so "
            f"far: {self.command} {name} --finish"
        )

    def stopped(self, name: str, step: int, total_steps: int) -> TrainingStopped:
        """Return the error that ends a run whose checkpoint was saved after Ctrl-C."""
        return TrainingStopped(
            f"Stopped after step {step:,} of {total_steps:,}; a checkpoint is kept.",
            hint=self.hint(name),
        )

    def has(self, name: str) -> bool:
        """Return whether there is an unfinished run of this name."""
        return (self._folder(name) / _OPTIONS_FILE).is_file()

    def options(self, name: str) -> dict[str, Any]:
        """Return the options that an unfinished run was started with.

        Raises:
            UsageError: there is none of this name.
        """
        try:
            options = json.loads((self._folder(name) / _OPTIONS_FILE).read_bytes())
        except (OSError, ValueError):
            options = None
        if not isinstance(options, dict):
            raise UsageError(
                f"There is no unfinished training of {name!r}.",
                hint=f"Start one: {self.command} {name} --data FILE",
            )
        return options

    @contextmanager
    def open(
        self,
        name: str,
        plan: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
        *,
        restart: bool = False,
        is_main_process: bool = True,
    ) -> Iterator[Path]:
        """Open the run of a new artifact, or the one that was stopped before; it is locked.

        The folder is deleted when the block ends, and kept if the block raises.

        Args:
            name: name of the artifact.
            plan: everything that determines the result; a run continues only with an equal plan.
            options: what `options` returns for `--finish`, as JSON values.
            restart: delete an earlier run instead of continuing it.
            is_main_process: whether this process writes; the others only read.

        Yields:
            The folder for checkpoints.

        Raises:
            UsageError: another process trains the artifact, or the plans differ.
            ChatlmError: the folder cannot be written.
        """
        from filelock import FileLock, Timeout

        folder = self._folder(name)
        if not is_main_process:
            yield folder
            return
        root = self.artifacts.user_root
        try:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f".training-{name}.lock", timeout=0):
                if restart:
                    shutil.rmtree(folder, ignore_errors=True)
                _prepare_folder(folder, name, plan, options or {})
                yield folder
                shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            raise UsageError(
                f"Another chatlm is training {name}.", hint="Wait until it is done."
            ) from None
        except OSError as error:
            raise self.artifacts.disk_error(error) from error

    def _folder(self, name: str) -> Path:
        return self.artifacts.user_root / f".training-{name}"


def _prepare_folder(
    folder: Path, name: str, plan: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    written = dump_json(plan)
    path = folder / _PLAN_FILE
    if not path.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_atomically(folder / _OPTIONS_FILE, [dump_json(options)])
        write_atomically(path, [written])
    elif path.read_text(encoding="utf-8") != written:
        raise UsageError(
            f"A training of {name} with other data or settings was stopped before.",
            hint="Start over with --restart, or give the same ones to continue it.",
        )
