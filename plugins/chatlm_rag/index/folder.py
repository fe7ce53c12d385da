"""Find index folders, lock them, and replace their current version atomically.

Each build writes a new numbered folder, a version of the index; `CURRENT` names the one in use.
`partial` is the checkpoint of an unfinished build. A process that dies leaves the old version
intact.
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


NAME_RULE = "A name has lower-case letters, digits, hyphens and underscores, at most 64."


_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


T = TypeVar("T")


def user_indices_dir() -> Path:
    """Return the folder of the user's own indices."""
    return data_dir() / "indices"


@dataclass(frozen=True)
class IndexFolder:
    """The folder of one index, which may not exist yet."""

    name: str
    path: Path

    @property
    def is_user_index(self) -> bool:
        """Whether it is the user's own and can be changed; the others come with chatlm."""
        return self.path.parent == user_indices_dir()

    @property
    def partial(self) -> Path:
        """The checkpoint folder of an unfinished build."""
        return self.path / PARTIAL

    def current(self) -> Path | None:
        """Return the folder of the current version; None before the first build is complete."""
        try:
            number = int((self.path / CURRENT).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return self.path / str(number)

    def built_at(self) -> datetime:
        """Return when the current version was built.

        Raises:
            OSError: there is none.
        """
        return datetime.fromtimestamp((self.path / CURRENT).stat().st_mtime, UTC)

    def open(self, opener: Callable[[Path], T]) -> T:
        """Open the current version, even while another process replaces it.

        Args:
            opener: opens the files of the given folder before it returns; open files stay readable
                when the folder is deleted.

        Returns:
            The result of `opener`.

        Raises:
            UsageError: the first build of the index is not complete.
            ChatlmError: a file is missing.
        """
        while True:
            folder = self.current()
            if folder is None:
                raise UsageError(
                    f"The index {self.name} is not finished.",
                    hint=f"Continue the build: chatlm rag update {self.name}",
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
        """Lock the index against other processes, and delete leftovers of a process that died.

        Raises:
            UsageError: another process is changing the index, or it is not the user's own.
            OSError: the folder cannot be written.
        """
        from filelock import FileLock, Timeout

        if not self.is_user_index:
            raise UsageError(
                f"The index {self.name} comes with chatlm and cannot be changed.",
                hint="Build your own: chatlm rag build NAME PATH",
            )
        try:
            user_indices_dir().mkdir(parents=True, exist_ok=True)
            with FileLock(user_indices_dir() / f".{self.name}.lock", timeout=0, is_singleton=False):
                self._delete_stale()
                yield
        except Timeout as error:
            raise UsageError(
                f"Another chatlm is changing the index {self.name}.",
                hint="Wait until it is done, then try again.",
            ) from error

    def create_new(self) -> Path:
        """Create the folder for a new version. The index must be locked."""
        folder = self.path / NEW
        folder.mkdir(parents=True)
        return folder

    def commit(self) -> Path:
        """Make the folder from `create_new` the current version and return its new path."""
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
        """Delete the checkpoint of an unfinished build. The index must be locked."""
        shutil.rmtree(self.partial, ignore_errors=True)

    def remove(self) -> None:
        """Delete the index with its checkpoint. The index must be locked."""
        removed = user_indices_dir() / f".removed-{self.name}-{os.getpid()}"
        self.path.replace(removed)
        shutil.rmtree(removed, ignore_errors=True)

    def _delete_stale(self) -> None:
        """Delete old versions; on Windows, files in use are left for the next time."""
        current = self.current()
        in_use = {PARTIAL, CURRENT, current.name if current else ""}
        with suppress(OSError):
            for entry in self.path.iterdir():
                if entry.name not in in_use:
                    shutil.rmtree(entry, ignore_errors=True)


def user_index(name: str) -> IndexFolder:
    """Return the folder for one of the user's own indices, which need not exist.

    Raises:
        UsageError: the name is invalid.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a valid name for an index.", hint=NAME_RULE)
    return IndexFolder(name, user_indices_dir() / name)


def all_indices() -> list[IndexFolder]:
    """List all indices by name, unfinished ones included.

    An index of the user hides one of the same name that comes with chatlm.
    """
    indices = {
        path.name: IndexFolder(path.name, path)
        for root in (bundled_dir("indices"), user_indices_dir())
        for path in sorted(root.glob("*/"))
        if _NAME.fullmatch(path.name) and ((path / CURRENT).is_file() or (path / PARTIAL).is_dir())
    }
    return [indices[name] for name in sorted(indices)]


def find_index(name: str) -> IndexFolder:
    """Find an index by name.

    Raises:
        UsageError: there is none; the hint suggests a similar name.
    """
    indices = {index.name: index for index in all_indices()}
    if name not in indices:
        similar = get_close_matches(name, indices, 1)
        raise UsageError(
            f"There is no index {name!r}.",
            hint=f"Did you mean {similar[0]}?"
            if similar
            else "List them: chatlm rag list, or /rag in a chat",
        )
    return indices[name]


def damaged_error(name: str, reason: str) -> ChatlmError:
    """Return the error for an index that cannot be read."""
    return ChatlmError(
        f"The index {name} cannot be read: {reason}.",
        hint=f"Delete it, then build it again: chatlm rag remove {name}",
    )


@contextmanager
def wrap_read_errors(name: str) -> Iterator[None]:
    """Report any error while reading an index as a damaged index.

    Raises:
        ChatlmError: the body failed.
    """
    try:
        yield
    except ChatlmError:
        raise
    except Exception as error:  # a damaged file can cause any error
        raise ChatlmError(
            f"The index {name} is damaged: {error or type(error).__name__}",
            hint=f"Rebuild it: chatlm rag update {name} --rebuild",
        ) from error


def disk_error(error: OSError, name: str) -> ChatlmError:
    """Return the error for an index that cannot be written."""
    return ChatlmError(
        f"The index {name} cannot be written to {user_indices_dir()}: {error.strerror or error}.",
        hint=f"Fix that, then continue: chatlm rag update {name}",
    )


npy_header_lock = Lock()
"""numpy parses the header of a file with `ast`, which in Python 3.11 fails in two threads at once
with "AST constructor recursion depth mismatch"."""


def load_mmap(path: Path) -> np.memmap[Any, Any]:
    """Memory-map a `.npy` file; the array stays readable when the file is replaced.

    Raises:
        OSError, ValueError: it cannot be read, or is not a `.npy` file.
    """
    import numpy as np

    with npy_header_lock:
        array: np.memmap[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
