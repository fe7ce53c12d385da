"""Find index folders, lock them, and open their current version.

Each build writes a new version into a numbered subfolder, which then replaces the current one; see
`chatlm.plugin_kit.artifacts.VersionedFolder`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from chatlm import ChatlmError, UsageError, bundled_dir, data_dir
from chatlm.plugin_kit.artifacts import CURRENT_FILE, VersionedFolder

if TYPE_CHECKING:
    import numpy as np


NAME_RULE = "A name has lower-case letters, digits, hyphens and underscores, at most 64."


_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


T = TypeVar("T")


def user_indices_dir() -> Path:
    """Return the folder of the user's own indices."""
    return data_dir() / "indices"


class IndexLocked(UsageError):
    """Another process is changing the index."""


@dataclass(frozen=True)
class IndexFolder(VersionedFolder):
    """The folder of one index, which may not exist yet."""

    @property
    def name(self) -> str:
        """The name of the index, which is that of its folder."""
        return self.path.name

    @property
    def is_user_index(self) -> bool:
        """Whether it is the user's own and can be changed; the others come with chatlm."""
        return self.path.parent == user_indices_dir()

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
        try:
            return super().open(opener)
        except FileNotFoundError as error:
            if self.current() is None:
                raise UsageError(
                    f"The index {self.name} is not finished.",
                    hint=f"Continue the build: chatlm rag update {self.name}",
                ) from error
            raise damaged_error(self.name, f"{error.filename} is missing") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the index against other processes, and delete leftovers of a process that died.

        Raises:
            IndexLocked: another process is changing the index.
            UsageError: it is not the user's own.
            OSError: the folder cannot be written.
        """
        if not self.is_user_index:
            raise UsageError(
                f"The index {self.name} comes with chatlm and cannot be changed.",
                hint="Build your own: chatlm rag build NAME PATH",
            )
        with ExitStack() as stack:
            try:
                stack.enter_context(super().lock())
            except TimeoutError as error:
                raise IndexLocked(
                    f"Another chatlm is changing the index {self.name}.",
                    hint="Wait until it is done, then try again.",
                ) from error
            yield


def user_index(name: str) -> IndexFolder:
    """Return the folder for one of the user's own indices, which need not exist.

    Raises:
        UsageError: the name is invalid.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a valid name for an index.", hint=NAME_RULE)
    return IndexFolder(user_indices_dir() / name)


def all_indices() -> list[IndexFolder]:
    """List all indices by name, unfinished ones included.

    An index of the user hides one of the same name that comes with chatlm.
    """
    indices = {
        path.name: IndexFolder(path)
        for root in (bundled_dir("indices"), user_indices_dir())
        for path in sorted(root.glob("*/"))
        if _NAME.fullmatch(path.name) and _is_index(IndexFolder(path))
    }
    return [indices[name] for name in sorted(indices)]


def _is_index(folder: IndexFolder) -> bool:
    return (folder.path / CURRENT_FILE).is_file() or folder.partial.is_dir()


def suggest_name(path: Path) -> str:
    """Return the name of an index of a file or folder; empty if its name has no usable letter."""
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:64].rstrip("-")


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
