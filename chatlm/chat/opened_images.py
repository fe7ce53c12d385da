"""Copies of images for other programs, which open files: removed when chatlm ends."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from chatlm.errors import StoreError
from chatlm.types.parts import Image

_LOCK_NAME = ".lock"
"""In the folder of each running program, which the system unlocks when that dies; and beside these
folders, locked while one is made or removed."""

_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp"}


class OpenedImages:
    """Copies that only the user can read; used in any thread.

    Args:
        folder: where the folders of all running programs are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: Path | None = None
        self._running: FileLock | None = None
        self._lock = threading.Lock()

    def add(self, image: Image, content: bytes) -> Path:
        """Write a copy of an image and return its path.

        Args:
            image: what it is.
            content: its bytes.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            with self._lock:
                name = f"{image.sha256[:12]}{_SUFFIXES.get(image.media_type, '')}"
                path = self._own_folder() / name
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
                    file.write(content)
        except OSError as error:
            raise StoreError(
                f"The image cannot be copied for another program: {error.strerror or error}",
                hint=f"See whether {self._folder} can be written and its disk has room.",
            ) from error
        return path

    def remove(self) -> None:
        """Remove the copies of this program, and of those that died."""
        with self._lock:
            if self._running is not None:
                self._running.release()
            self._own = self._running = None
        self.remove_left_behind()

    def remove_left_behind(self) -> None:
        """Remove the copies of programs that died."""
        if not self._folder.is_dir():
            return
        with suppress(OSError), FileLock(self._folder / _LOCK_NAME, mode=0o600):
            for place in self._folder.glob("*/"):
                _remove_unlocked(place)

    def _own_folder(self) -> Path:
        if self._own is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(self._folder / _LOCK_NAME, mode=0o600):
                self._own = Path(tempfile.mkdtemp(dir=self._folder))
                self._running = _lock_of(self._own)
                self._running.acquire()
        return self._own


def _remove_unlocked(place: Path) -> None:
    """Remove the folder of a program unless that runs."""
    try:
        with _lock_of(place).acquire(blocking=False):
            for path in place.iterdir():
                if path.name != _LOCK_NAME:
                    path.unlink()
    except Timeout:
        return
    shutil.rmtree(place, ignore_errors=True)


def _lock_of(place: Path) -> FileLock:
    """Return the lock of a folder; any thread may free it."""
    return FileLock(place / _LOCK_NAME, mode=0o600, thread_local=False)
