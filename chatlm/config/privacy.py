"""Permissions of chatlm's files: private to the user, including those of earlier versions."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from chatlm.config import paths

PRIVATE_UMASK = 0o077

_PRIVATE_NAMES = (
    "adapters",
    "arena.db*",
    "blobs",
    "chats.db*",
    "classifiers",
    "indices",
    "kernels",
    "loading",
    "plugin-*.json",
    "prompts",
)
"""What chatlm and its plugins store in the data folder, which others may not read."""


_TRUSTED_NAMES = ("models", "plugins")
"""What others may read, but not write: it is run, or may be shared on purpose."""


def restrict_files() -> None:
    """Let only the user read what this process creates and what earlier versions created.

    Files whose permissions cannot be changed, such as those on a read-only disk, stay as they are.
    """
    os.umask(PRIVATE_UMASK)
    data = paths.data_dir()
    if not os.environ.get("CHATLM_HOME"):  # a folder that the user named may hold other files too
        _restrict(data, PRIVATE_UMASK)
        _restrict(paths.log_file().parent, PRIVATE_UMASK)
    for pattern in _PRIVATE_NAMES:
        for path in data.glob(pattern):
            _restrict_tree(path, PRIVATE_UMASK)
    for name in _TRUSTED_NAMES:
        _restrict_tree(data / name, 0o022)
    for path in paths.log_file().parent.glob(f"{paths.log_file().name}*"):
        _restrict(path, PRIVATE_UMASK)


def _restrict_tree(path: Path, forbidden: int) -> None:
    """Restrict a file, or a folder with its content if it is not restricted yet."""
    # the folder comes last: an interrupted pass is repeated at the next start
    if _is_open(path, forbidden):
        if path.is_dir():
            for entry in _entries(path):
                _restrict(entry, forbidden)
        _restrict(path, forbidden)


def _entries(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))


def _restrict(path: Path, forbidden: int) -> None:
    if _is_open(path, forbidden):
        with suppress(OSError):
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~forbidden)


def _is_open(path: Path, forbidden: int) -> bool:
    """Whether others have a forbidden permission; a link has none of its own."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    return not stat.S_ISLNK(mode) and bool(mode & forbidden)
