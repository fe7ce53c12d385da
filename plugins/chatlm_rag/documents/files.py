"""Which files a source has: below a folder those that nobody ignores, else the file itself."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm_rag.documents.document import clean
from chatlm_rag.records import record

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


SKIPPED = ("__pycache__", "node_modules")
"""Folders that programs fill, left out beside hidden ones."""


@dataclass(frozen=True)
class Source:
    """A file or folder that an index is made of."""

    path: str
    include: tuple[str, ...] = ()
    """Patterns as in a `.gitignore`; only files that match one. Empty for all."""
    exclude: tuple[str, ...] = ()
    """Patterns as in a `.gitignore`; no file or folder that matches one."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "path": self.path,
            "include": list(self.include),
            "exclude": list(self.exclude),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Source:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return record(
            cls,
            path=values["path"],
            include=tuple(map(str, values["include"])),
            exclude=tuple(map(str, values["exclude"])),
        )


@dataclass(frozen=True)
class Stamp:
    """Size and time of a file; one that keeps both is taken to be unchanged."""

    size: int
    """Bytes."""
    mtime_ns: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "size": self.size,
            "mtime_ns": self.mtime_ns,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Stamp:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return record(
            cls,
            size=values["size"],
            mtime_ns=values["mtime_ns"],
        )


@dataclass(frozen=True)
class FoundFile:
    """A file of a source."""

    path: str
    source: str
    """Its path below the source's parent, with forward slashes: what passages of it are called.
    What of it is no UTF-8 is replaced."""
    stamp: Stamp | None
    """None when it cannot be looked at."""
    problem: str = ""
    """Why it cannot be looked at."""


def files(source: Source) -> Iterator[FoundFile]:
    """The files of a source, in the order of their paths; none is opened but `.gitignore`.

    Hidden files and folders, what a `.gitignore` in or above the folder leaves out, and links to
    folders are passed by. The source itself is taken whatever it is.

    Raises:
        OSError: the source is not there, or cannot be looked at.
    """
    root = Path(source.path)
    if not root.is_dir():
        yield _file(str(root), clean(root.name), root.stat())
        return
    patterns = _Patterns(source)
    name = clean(root.resolve().name)
    waiting = [(str(root), name, "", _ignored_above(root))]
    while waiting:
        folder, shown, inside, ignored = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == str(root):
                raise
            yield FoundFile(folder, shown, None, f"cannot be listed: {error.strerror}")
            continue
        ignored = ignored.below(folder)
        deeper = []
        for entry in entries:
            below, seen = f"{inside}{entry.name}", f"{shown}/{clean(entry.name)}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in SKIPPED and not (
                    patterns.exclude_folder(below) or ignored.hides(entry.path, folder=True)
                ):
                    deeper.append((entry.path, seen, f"{below}/", ignored))
            elif patterns.take(below) and not ignored.hides(entry.path, folder=False):
                yield from _entry(entry, seen)
        waiting += reversed(deeper)


def _entry(entry: os.DirEntry[str], shown: str) -> Iterator[FoundFile]:
    try:
        status = entry.stat()
    except OSError as error:
        lost = entry.is_symlink()
        why = "is a link that leads nowhere" if lost else f"cannot be read: {error.strerror}"
        yield FoundFile(entry.path, shown, None, why)
        return
    if not stat.S_ISDIR(status.st_mode):
        yield _file(entry.path, shown, status)


def _file(path: str, shown: str, status: os.stat_result) -> FoundFile:
    if not stat.S_ISREG(status.st_mode):
        return FoundFile(path, shown, None, "is no ordinary file")
    return FoundFile(path, shown, Stamp(status.st_size, status.st_mtime_ns))


class _Patterns:
    """The person's own include and exclude."""

    def __init__(self, source: Source) -> None:
        self._include = _spec(source.include) if source.include else None
        self._exclude = _spec(source.exclude) if source.exclude else None

    def take(self, inside: str) -> bool:
        """Whether a file is wanted, by its path below the source."""
        if self._exclude and self._exclude.match_file(inside):
            return False
        return self._include is None or self._include.match_file(inside)

    def exclude_folder(self, inside: str) -> bool:
        """Whether a folder is unwanted as a whole."""
        return bool(self._exclude and self._exclude.match_file(f"{inside}/"))


@dataclass(frozen=True)
class _Ignored:
    """The `.gitignore` files that hold in a folder, the nearest last; it decides first."""

    specs: tuple[tuple[str, GitIgnoreSpec], ...] = field(default=())

    def below(self, folder: str) -> _Ignored:
        """With the folder's own `.gitignore`, where it has one; a pipe or a device is none."""
        path = Path(folder, ".gitignore")
        if not path.is_file():
            return self
        try:
            lines = path.read_text("utf-8", "replace").splitlines()
        except OSError:
            return self
        return _Ignored((*self.specs, (folder, _spec(tuple(lines)))))

    def hides(self, path: str, *, folder: bool) -> bool:
        """Whether an entry is left out."""
        for base, spec in reversed(self.specs):
            inside = os.path.relpath(path, base).replace(os.sep, "/")
            verdict = spec.check_file(f"{inside}/" if folder else inside).include
            if verdict is not None:
                return verdict
        return False


def _ignored_above(root: Path) -> _Ignored:
    """The `.gitignore` files from the top of a repository down to the folder above the root."""
    above = []
    for folder in root.absolute().parents if not (root / ".git").exists() else ():
        above.append(str(folder))
        if (folder / ".git").exists():
            break
    else:
        return _Ignored()
    ignored = _Ignored()
    for each in reversed(above):
        ignored = ignored.below(each)
    return ignored


def _spec(lines: tuple[str, ...]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(line for line in lines if _usable(line))


def _usable(line: str) -> bool:
    from pathspec import GitIgnoreSpec

    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:  # git passes by a pattern that it cannot read, and so do we
        return False
    return True
