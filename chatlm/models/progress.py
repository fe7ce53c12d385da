"""How a long job says how far it is and asks whether to go on; it does not know who listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from chatlm.errors import ModelError

Stage = Literal["wait", "download", "unpack", "convert", "check"]
"""wait: another process fetches the same model. The others are what is being done."""

Cancelled = Callable[[], bool]
"""True once the person wants to stop."""


STAGES: dict[Stage, str] = {
    "wait": "waiting for another chatlm that fetches it",
    "download": "downloading",
    "unpack": "unpacking",
    "convert": "converting, only this once",
    "check": "checking",
}


def in_words(stage: Stage, done: int, total: int | None) -> str:
    """What is being done, with the share that is done where it is known."""
    return f"{STAGES[stage]} {done * 100 // total} %" if total else STAGES[stage]


class Progress(Protocol):
    """Called often, from the thread that runs the job."""

    def __call__(self, stage: Stage, done: int, total: int | None) -> None:
        """`done` of `total` bytes of this stage; `total` is None when it is not known."""


class PullCancelled(ModelError):
    """The person stopped a pull."""


def silent(stage: Stage, done: int, total: int | None) -> None:
    """A `Progress` that shows nothing."""


def never() -> bool:
    """A `Cancelled` that never stops a job."""
    return False


def check_cancelled(cancelled: Cancelled) -> None:
    """Raise `PullCancelled` when `cancelled` says so."""
    if cancelled():
        raise PullCancelled("The pull was stopped.", "Run the same command to start again.")
