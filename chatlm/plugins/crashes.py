"""Remembers which plugin was being loaded, so that one that ends the process is noticed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chatlm import paths


def _folder() -> Path:
    return paths.data_dir() / "loading"


@contextmanager
def watched(name: str) -> Iterator[bool]:
    """Leave a mark while a plugin is loaded; gives False if an earlier process left one.

    Another chatlm that loads the same plugin at this moment is no crash: its lock says that it
    lives. Where no file can be written, nothing is remembered.
    """
    from filelock import FileLock, Timeout

    mark = _folder() / name
    lock = FileLock(_folder() / f".{name}.lock")
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except (OSError, Timeout):
        yield True
        return
    try:
        if crashed(name):
            yield False
            return
        with suppress(OSError):
            mark.touch()
        try:
            yield True
        finally:
            mark.unlink(missing_ok=True)
    finally:
        lock.release()


def crashed(name: str) -> bool:
    """Whether a process ended while it loaded the plugin; true too while another one does."""
    return (_folder() / name).exists()


def forgive(name: str) -> bool:
    """Let the plugin be loaded again; returns whether it was left out."""
    mark = _folder() / name
    was = mark.exists()
    mark.unlink(missing_ok=True)
    return was
