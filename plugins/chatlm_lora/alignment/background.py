"""A training in a process of its own, so that a chat stays usable and a crash ends only it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from itertools import count
from threading import Thread
from typing import Any

from chatlm import one_line
from chatlm.plugin_kit.training import TrainingStopped
from chatlm_lora.checkpoints import ALIGNMENT_RUNS
from chatlm_lora.library import ADAPTERS

MAX_LINES = 200
"""Lines of a training that are remembered."""


class TrainingState(StrEnum):
    """What has become of a training."""

    RUNNING = "running"
    STOPPED = "stopped"
    DONE = "done"
    FAILED = "failed"


class BackgroundTraining:
    """One `chatlm align train` that runs beside a chat.

    Args:
        name: name of the new adapter.
        words: the rest of the command line.
        command: what starts chatlm.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        command: Sequence[str] = (sys.executable, "-P", "-m", "chatlm"),
    ) -> None:
        self.name = name
        self.state = TrainingState.RUNNING
        self.card: dict[str, Any] = {}
        """The card of the adapter, as JSON values, once it is done."""
        self._lines: list[str] = []
        self._process = subprocess.Popen(  # our own program
            [*command, "align", "train", name, *words, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C on the terminal is not for it
        )
        output = Thread(target=self._read_output, name="align-output", daemon=True)
        output.start()
        Thread(target=self._follow, args=(output,), name="align", daemon=True).start()

    @property
    def lines(self) -> tuple[str, ...]:
        """What it reported so far, newest last."""
        return tuple(self._lines)

    @property
    def is_running(self) -> bool:
        """Whether it is not over yet."""
        return self.state is TrainingState.RUNNING

    def stop(self) -> None:
        """Stop it after the current step; a checkpoint is kept."""
        if self.is_running:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)

    def _read_output(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  # a pipe, as asked for above
        text = self._process.stdout.read()
        with suppress(ValueError):
            found = json.loads(text)
            self.card = found if isinstance(found, dict) else {}

    def _follow(self, output: Thread) -> None:
        assert self._process.stderr is not None  # noqa: S101  # a pipe, as asked for above
        for line in self._process.stderr:
            if text := one_line(line, 300):
                self._lines.append(text)
                del self._lines[:-MAX_LINES]
        code = self._process.wait()
        output.join()
        if code == 0 and self.card:
            self.state = TrainingState.DONE
        else:
            stopped = code in (TrainingStopped.exit_code, -signal.SIGINT)
            self.state = TrainingState.STOPPED if stopped else TrainingState.FAILED


class BackgroundTrainings:
    """The training that runs beside the chats, at most one at a time."""

    def __init__(self) -> None:
        self.current: BackgroundTraining | None = None
        """The last one, running or over."""

    def start(self, name: str, words: Sequence[str]) -> BackgroundTraining:
        """Start a training; the one before is over."""
        self.current = BackgroundTraining(name, words)
        return self.current

    def stop(self) -> None:
        """Stop the one that runs, if any."""
        if self.current is not None:
            self.current.stop()


TRAININGS = BackgroundTrainings()


def adapter_name(method: str) -> str:
    """Return the name for an adapter that a method makes of the votes; it is not taken."""
    taken = {adapter.name for adapter in ADAPTERS.all()}
    names = (f"votes-{method}{f'-{number}' if number > 1 else ''}" for number in count(1))
    return next(name for name in names if name not in taken)


def is_unfinished(name: str) -> bool:
    """Return whether a training of this name was stopped and can be continued."""
    return ALIGNMENT_RUNS.has(name)
