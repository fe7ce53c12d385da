"""What the supervisor is told about a run, as one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from chatlm_tools.sandbox.limits import Limits

Tier = Literal["bubblewrap", "landlock"]
"""What contains a program: namespaces made by bubblewrap, or Landlock; both with seccomp."""

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


@dataclass(frozen=True)
class RunSpec:
    """One run."""

    tier: Tier
    command: Sequence[str]
    folder: str
    """The temporary folder: the working folder, and the only one that can be changed."""
    readable: Sequence[str]
    """Folders and files that can be read; absolute."""
    environment: Mapping[str, str]
    limits: Limits
    bwrap: str = ""
    """The program bubblewrap."""

    def to_json(self) -> str:
        """Convert to one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> RunSpec:
        """Restore from `to_json`."""
        values = json.loads(line)
        return cls(**{**values, "limits": Limits(**values["limits"])})


def bubblewrap_command(spec: RunSpec, filter_descriptor: int) -> list[str]:
    """Return the command that runs the program in namespaces of its own.

    Args:
        spec: the run.
        filter_descriptor: an open file with the seccomp filter.
    """
    arguments = [
        spec.bwrap,
        *("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"),
        *("--cap-drop", "ALL", "--hostname", "sandbox"),
        *("--seccomp", str(filter_descriptor)),
    ]
    for name in spec.readable:
        path = Path(name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), name]
        elif path.exists():
            arguments += ["--ro-bind", name, name]
    for device in DEVICES:
        arguments += ["--dev-bind", device, device]
    # The root is a file system in memory, which no limit would count if it could be written.
    arguments += ["--bind", spec.folder, spec.folder, "--remount-ro", "/"]
    return [*arguments, "--chdir", spec.folder, "--", *spec.command]
