"""Paths that people type, and writing a file whole or not at all; not what is in it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path


def expanded(path: str) -> Path:
    """The path with `~` and `~NAME` filled in, or as it is where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_atomically(path: Path, pieces: Iterable[str]) -> None:
    """Put the pieces, joined, in place of what the file held, as UTF-8.

    The old content stays until the new one is on disk. Permissions are kept, a new file is
    readable by its owner only, and a link stays a link.

    Raises:
        OSError: the folder is not there or not writable, or the disk is full; nothing changed.
    """
    target = path.resolve()
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
