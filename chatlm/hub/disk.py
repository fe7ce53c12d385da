"""Sizes, hashes, free space and durable copies of files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from chatlm.errors import ModelError
from chatlm.hub.jobs import CancelCheck, ProgressCallback, Stage, check_cancelled

COPY_CHUNK_BYTES = 1 << 20


FREE_SPACE_HINT = "Free some space, or set CHATLM_HOME to a folder on a larger disk."


class NoSpace(ModelError):
    """The disk is too small for a download."""


def human_bytes(count: int) -> str:
    """Format a size in decimal units: 98362432 -> 98.4 MB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise `NoSpace` unless the disk of `folder` has `needed` bytes free.

    Args:
        folder: it, or the nearest of its parents that exists, is looked at.
        needed: bytes.
        purpose: what the bytes are for, such as "to download smollm2".
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise no_space_error(folder, f"{human_bytes(needed)} are needed {purpose}", free)


def no_space_error(folder: Path, problem: str, free: int | None = None) -> NoSpace:
    """Return the error for a full disk; `problem` says what did not fit."""
    available = "" if free is None else f", and {human_bytes(free)} are free"
    return NoSpace(
        f"Not enough space on the disk of {folder}: {problem}{available}.",
        FREE_SPACE_HINT,
    )


@contextlib.contextmanager
def translate_disk_full(folder: Path) -> Iterator[None]:
    """Turn the operating system's "disk full" into `NoSpace`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space_error(folder, "it filled up while writing") from error
        raise


def tree_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; a file that vanishes meanwhile counts as 0."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_size
    return total


def freed_bytes(folder: Path) -> int:
    """Return the bytes that deleting a folder frees; a file that is elsewhere too frees none."""
    files = (Path(parent, name).lstat() for parent, _, names in os.walk(folder) for name in names)
    return sum(status.st_size for status in files if status.st_nlink == 1)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_and_hash(
    source: IO[bytes],
    target: Path,
    total: int,
    *,
    stage: Stage,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> str:
    """Write a stream to a new file, flush it to disk and return its SHA-256 in hex."""
    digest = hashlib.sha256()
    done = 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        while chunk := source.read(COPY_CHUNK_BYTES):
            check_cancelled(cancelled)
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            progress(stage, done, total)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


_SMALL_BYTES = 16 << 20


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link `target` to `source` where the disk allows it; else copy a small file, and point to
    a large one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    real = source.resolve()
    try:
        os.link(real, target)
    except OSError:
        if real.stat().st_size > _SMALL_BYTES:
            with contextlib.suppress(OSError):  # some systems allow no symbolic links
                target.symlink_to(real)
                return
        shutil.copyfile(real, target)


def fsync_tree(folder: Path) -> None:
    """Flush all files and folders below a folder to disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _fsync_file(Path(parent, name))
        fsync_folder(Path(parent))


def _fsync_file(path: Path) -> None:
    if os.name != "nt":
        _fsync(path)  # which needs no permission to write
    elif os.access(path, os.W_OK):
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, where the system supports it."""
    if os.name != "nt":
        _fsync(folder)
