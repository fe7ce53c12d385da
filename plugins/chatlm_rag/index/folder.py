"""Numbered folders, CURRENT, lock; arrays and records of files.

An index's folder holds one numbered folder for each time it was made, of which `CURRENT` names the
one that counts, and `partial`, what an unfinished build has to go on from. A process that dies
leaves the old index as it was. It does not know what is in a numbered folder.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from chatlm import ChatlmError, UsageError, bundled_dir, data_dir, fsync_tree, write_atomically

if TYPE_CHECKING:
    import numpy as np


CURRENT = "CURRENT"


PARTIAL = "partial"


NEW = "new"


NAME_RULE = "A name has small letters, digits, hyphens and underscores, 64 at most."


_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


T = TypeVar("T")


def user_indices_dir() -> Path:
    """The folder of the person's own indices."""
    return data_dir() / "indices"


@dataclass(frozen=True)
class IndexFolder:
    """The place of one index, which may not be there yet."""

    name: str
    path: Path

    @property
    def is_user_index(self) -> bool:
        """Whether it is the person's own, which can be changed."""
        return self.path.parent == user_indices_dir()

    @property
    def partial(self) -> Path:
        """What an unfinished build keeps."""
        return self.path / PARTIAL

    def current(self) -> Path | None:
        """The numbered folder that counts; None before the index was made."""
        try:
            number = int((self.path / CURRENT).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return self.path / str(number)

    def built_at(self) -> datetime:
        """When the folder that counts was made.

        Raises:
            OSError: there is none.
        """
        return datetime.fromtimestamp((self.path / CURRENT).stat().st_mtime, UTC)

    def open(self, opener: Callable[[Path], T]) -> T:
        """What `opener` makes of the folder that counts, also while another process replaces it.

        Args:
            opener: opens all that it needs before it returns; opened files stay readable.

        Raises:
            UsageError: the index was not made yet.
            ChatlmError: a file of it is missing.
        """
        while True:
            folder = self.current()
            if folder is None:
                raise UsageError(
                    f"The index {self.name} is not finished.",
                    hint=f"Go on with it: chatlm rag update {self.name}",
                )
            try:
                return opener(folder)
            except Exception as error:
                if self.current() != folder:
                    continue
                if isinstance(error, FileNotFoundError):
                    raise damaged_error(self.name, f"{error.filename} is missing") from error
                raise

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that changes the index; what a dead one left is removed first.

        Raises:
            UsageError: another process is at it, or the index is not the person's own.
            ChatlmError: the folder cannot be written.
        """
        from filelock import FileLock, Timeout

        if not self.is_user_index:
            raise UsageError(
                f"The index {self.name} comes with chatlm and stays as it is.",
                hint="Build one of your own: chatlm rag build NAME PATH",
            )
        try:
            user_indices_dir().mkdir(parents=True, exist_ok=True)
            with FileLock(user_indices_dir() / f".{self.name}.lock", timeout=0, is_singleton=False):
                self._delete_stale()
                yield
        except Timeout as error:
            raise UsageError(
                f"Another chatlm is changing the index {self.name}.",
                hint="Wait until it has ended, then try again.",
            ) from error

    def create_new(self) -> Path:
        """The empty folder `new` to make the index in; call it while `writing`."""
        folder = self.path / NEW
        folder.mkdir(parents=True)
        return folder

    def commit(self) -> Path:
        """Let the folder that `fresh` gave count from now on, and return its place."""
        before = self.current()
        number = int(before.name) + 1 if before else 1
        folder = self.path / str(number)
        fsync_tree(self.path / NEW)
        (self.path / NEW).replace(folder)
        write_atomically(self.path / CURRENT, [f"{number}\n"])
        self.delete_partial()
        self._delete_stale()
        return folder

    def delete_partial(self) -> None:
        """Delete what an unfinished build keeps; call it while `writing`."""
        shutil.rmtree(self.partial, ignore_errors=True)

    def remove(self) -> None:
        """Delete the index and what an unfinished build keeps; call it while `writing`."""
        gone = user_indices_dir() / f".removed-{self.name}-{os.getpid()}"
        self.path.replace(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _delete_stale(self) -> None:
        """Delete what no longer counts; a system that keeps open files leaves it for next time."""
        current = self.current()
        kept = {PARTIAL, CURRENT, current.name if current else ""}
        with suppress(OSError):
            for entry in self.path.iterdir():
                if entry.name not in kept:
                    shutil.rmtree(entry, ignore_errors=True)


def user_index(name: str) -> IndexFolder:
    """The place of an index of the person's own, there or not.

    Raises:
        UsageError: there can be none of this name.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"An index cannot be called {name!r}.", hint=NAME_RULE)
    return IndexFolder(name, user_indices_dir() / name)


def all_indices() -> list[IndexFolder]:
    """All indices by name, also those that are not finished; the person's own win."""
    found = {
        path.name: IndexFolder(path.name, path)
        for root in (bundled_dir("indices"), user_indices_dir())
        for path in sorted(root.glob("*/"))
        if _NAME.fullmatch(path.name) and ((path / CURRENT).is_file() or (path / PARTIAL).is_dir())
    }
    return [found[name] for name in sorted(found)]


def find_index(name: str) -> IndexFolder:
    """The index of a name.

    Raises:
        UsageError: there is none; the nearest is suggested.
    """
    there = {index.name: index for index in all_indices()}
    if name not in there:
        near = get_close_matches(name, there, 1)
        raise UsageError(
            f"There is no index {name!r}.",
            hint=f"Did you mean {near[0]}?"
            if near
            else "See them: chatlm rag list, in a chat /rag",
        )
    return there[name]


def damaged_error(name: str, reason: str) -> ChatlmError:
    """The error for an index that cannot be read."""
    return ChatlmError(
        f"The index {name} cannot be read: {reason}.",
        hint=f"Remove it, then build it again: chatlm rag remove {name}",
    )


@contextmanager
def wrap_read_errors(name: str) -> Iterator[None]:
    """Say that an index is damaged when a step that only reads its files fails, in whatever way.

    Raises:
        ChatlmError: it failed.
    """
    try:
        yield
    except ChatlmError:
        raise
    except Exception as error:  # a wrong byte shows in whatever it leads to
        raise ChatlmError(
            f"The index {name} is damaged: {error or type(error).__name__}",
            hint=f"Make it anew: chatlm rag update {name} --rebuild",
        ) from error


def disk_error(error: OSError, name: str) -> ChatlmError:
    """The error for an index that cannot be written."""
    return ChatlmError(
        f"The index {name} cannot be written in {user_indices_dir()}: {error.strerror or error}.",
        hint=f"Mend that, then go on: chatlm rag update {name}",
    )


npy_header_lock = Lock()
"""numpy reads a file's head by `ast`, and two threads at once make Python 3.11 fail in that with
"AST constructor recursion depth mismatch"."""


def load_mmap(path: Path) -> np.memmap[Any, Any]:
    """The array of a `.npy` file; stays readable when the file is replaced.

    Raises:
        OSError, ValueError: it cannot be read, or is no such file.
    """
    import numpy as np

    with npy_header_lock:
        array: np.memmap[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
