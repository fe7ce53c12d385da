"""What a sandboxed program may use, and how its run ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StopCause = Literal["", "time", "memory", "processes", "output", "disk", "cancelled"]
"""Why the supervisor ended a program; empty if it ended by itself."""


@dataclass(frozen=True)
class Limits:
    """Limits of one run, for the program and everything it starts together.

    Raises:
        ValueError: one is not positive.
    """

    seconds: float = 30.0
    """Elapsed time."""
    memory: int = 2 << 30
    """Bytes of resident memory of all processes, and of address space of each."""
    processes: int = 48
    """Processes and threads at once."""
    output: int = 1 << 20
    """Bytes of standard output and error together."""
    disk: int = 256 << 20
    """Bytes in the temporary folder, removed files that are still open included."""
    files: int = 5000
    """Files and folders in the temporary folder."""
    open_files: int = 256
    """Open files of each process."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name} must be above 0")


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    exit_code: int
    """The program's own; below 0 the signal that ended it, which bubblewrap tells as 128 more."""
    stopped: StopCause
    stdout: str
    stderr: str
    seconds: float
    peak_memory: int
    """Bytes of resident memory, as last measured at its highest."""

    @property
    def is_error(self) -> bool:
        """Whether the program failed or was stopped."""
        return self.exit_code != 0 or bool(self.stopped)
