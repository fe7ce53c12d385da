"""The work place of a pull: one process a model at a time, and nothing half-made ever in its place.

Below `models/.staging/NAME/`: a lock file, one folder for each process that works on the model, and
`partial`, a hub download that can be resumed. It does not know how a model is made.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from chatlm.config import paths
from chatlm.errors import ModelError
from chatlm.hub.disk import sync_folder, sync_tree, tree_bytes
from chatlm.hub.jobs import Cancelled, Progress, check_cancelled, never, silent

_LOCK = "lock"


_PARTIAL = "partial"


_WAIT_SECONDS = 0.2


def _root() -> Path:
    return paths.models_dir() / ".staging"


def partial(folder_name: str) -> Path:
    """Where the hub download of a model grows; it stays after an interruption."""
    return _root() / folder_name / _PARTIAL


@contextlib.contextmanager
def locked(
    folder_name: str, progress: Progress = silent, cancelled: Cancelled = never
) -> Iterator[None]:
    """Hold the one lock of a model; wait while another process has it.

    The system frees the lock of a process that dies.
    """
    lock = _lock(_make(_root() / folder_name))
    while True:
        try:
            lock.acquire(timeout=_WAIT_SECONDS)
            break
        except Timeout:
            check_cancelled(cancelled)
            progress("wait", 0, None)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def staged(folder_name: str) -> Iterator[Path]:
    """An empty folder to make a model in, gone afterwards; call it with the lock held."""
    place = _make(_root() / folder_name)
    work = Path(tempfile.mkdtemp(prefix="work-", dir=place))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def commit(made: Path, folder_name: str) -> Path:
    """Move a finished folder, manifest included, into its place in one step; return the place."""
    target = paths.models_dir() / folder_name
    sync_tree(made)
    if target.exists():
        discard(target, folder_name)
    made.replace(target)
    sync_folder(target.parent)
    return target


def discard(folder: Path, folder_name: str) -> None:
    """Take a folder out of its place in one step, then delete it; call it with the lock held."""
    with staged(folder_name) as work:
        folder.replace(work / "discarded")


def forget_partial(folder_name: str) -> int:
    """Delete an interrupted hub download and return its bytes; call it with the lock held."""
    folder = partial(folder_name)
    freed = tree_bytes(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return freed


def clean_abandoned() -> None:
    """Delete what dead processes left, for every model; a hub download that can go on is kept."""
    for place in _root().glob("*/"):
        with contextlib.suppress(Timeout), _lock(place).acquire(blocking=False):
            for work in place.glob("work-*"):
                shutil.rmtree(work, ignore_errors=True)


def _make(place: Path) -> Path:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"The models folder {paths.models_dir()} cannot be written: {error.strerror}.",
            "Give yourself the right to write there, or set CHATLM_HOME to another folder.",
        ) from error
    return place


def _lock(place: Path) -> FileLock:
    return FileLock(place / _LOCK, is_singleton=False)
