"""Staging folders of downloads: one process per model, only complete folders move into place.

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
from chatlm.hub.disk import fsync_folder, fsync_tree, tree_bytes
from chatlm.hub.jobs import (
    CancelCheck,
    ProgressCallback,
    check_cancelled,
    ignore_progress,
    never_cancelled,
)

_LOCK_NAME = "lock"


_PARTIAL_NAME = "partial"


_WAIT_SECONDS = 0.2


def _staging_root() -> Path:
    return paths.models_dir() / ".staging"


def partial_download_folder(folder_name: str) -> Path:
    """Return the folder of a model's partial hub download, kept after an interruption."""
    return _staging_root() / folder_name / _PARTIAL_NAME


@contextlib.contextmanager
def lock_model(
    folder_name: str,
    progress: ProgressCallback = ignore_progress,
    cancelled: CancelCheck = never_cancelled,
) -> Iterator[None]:
    """Hold the lock of a model; wait while another process holds it.

    The system frees the lock of a process that dies.
    """
    lock = _file_lock(_make_folder(_staging_root() / folder_name))
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
def staging_folder(folder_name: str) -> Iterator[Path]:
    """Provide an empty folder to build a model in, deleted afterwards; needs the lock."""
    place = _make_folder(_staging_root() / folder_name)
    work = Path(tempfile.mkdtemp(prefix="work-", dir=place))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def commit_model(finished_folder: Path, folder_name: str) -> Path:
    """Move a complete folder with its manifest into place atomically; return the new path."""
    target = paths.models_dir() / folder_name
    fsync_tree(finished_folder)
    if target.exists():
        discard_folder(target, folder_name)
    finished_folder.replace(target)
    fsync_folder(target.parent)
    return target


def discard_folder(folder: Path, folder_name: str) -> None:
    """Move a folder away atomically, then delete it; needs the lock."""
    with staging_folder(folder_name) as work:
        folder.replace(work / "discarded")


def delete_partial_download(folder_name: str) -> int:
    """Delete a partial hub download and return its bytes; needs the lock."""
    folder = partial_download_folder(folder_name)
    freed = tree_bytes(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return freed


def delete_stale_staging() -> None:
    """Delete what dead processes left behind; keep hub downloads that can be resumed."""
    for place in _staging_root().glob("*/"):
        with contextlib.suppress(Timeout), _file_lock(place).acquire(blocking=False):
            for work in place.glob("work-*"):
                shutil.rmtree(work, ignore_errors=True)


def leftovers() -> list[tuple[str, Path]]:
    """List the staging folders that have something in them, with the names of their models."""
    places = sorted(_staging_root().glob("*/"))
    return [
        (place.name.replace("--", "/", 1).replace("+", ":"), place)
        for place in places
        if any(path.name != _LOCK_NAME for path in place.iterdir())
    ]


def delete_leftovers(place: Path) -> int:
    """Delete what a staging folder has, and return its bytes.

    Raises:
        Timeout: another process works in it.
    """
    with _file_lock(place).acquire(blocking=False):
        freed = tree_bytes(place)
        for path in place.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
    return freed


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"The models folder {paths.models_dir()} cannot be written: {error.strerror}.",
            "Check its permissions, or set CHATLM_HOME to another folder.",
        ) from error
    return folder


def _file_lock(folder: Path) -> FileLock:
    return FileLock(folder / _LOCK_NAME, is_singleton=False)
