"""Which files a source has: below a folder those that nobody ignores, else the file itself."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm_rag.documents.document import replace_surrogates
from chatlm_rag.json_fields import get_int, get_str

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


SKIPPED_FOLDERS = ("__pycache__", "node_modules")
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
        return cls(
            path=get_str(values, "path"),
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
        return cls(
            size=get_int(values, "size"),
            mtime_ns=get_int(values, "mtime_ns"),
        )


@dataclass(frozen=True)
class SourceFile:
    """A file of a source."""

    path: str
    source: str
    """Its path below the source's parent, with forward slashes: what passages of it are called.
    What of it is no UTF-8 is replaced."""
    stamp: Stamp | None
    """None when it cannot be looked at."""
    problem: str = ""
    """Why it cannot be looked at."""


def find_files(source: Source) -> Iterator[SourceFile]:
    """The files of a source, in the order of their paths; none is opened but `.gitignore`.

    Hidden files and folders, what a `.gitignore` in or above the folder leaves out, and links to
    folders are passed by. The source itself is taken whatever it is.

    Raises:
        OSError: the source is not there, or cannot be looked at.
    """
    root = Path(source.path)
    if not root.is_dir():
        yield _file_from_stat(str(root), replace_surrogates(root.name), root.stat())
        return
    patterns = _UserPatterns(source)
    name = replace_surrogates(root.resolve().name)
    waiting = [(str(root), name, "", _ignore_rules_above(root))]
    while waiting:
        folder, shown, inside, ignored = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == str(root):
                raise
            yield SourceFile(folder, shown, None, f"cannot be listed: {error.strerror}")
            continue
        ignored = ignored.with_folder(folder)
        deeper = []
        for entry in entries:
            below, seen = f"{inside}{entry.name}", f"{shown}/{replace_surrogates(entry.name)}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in SKIPPED_FOLDERS and not (
                    patterns.excludes_folder(below) or ignored.ignores(entry.path, is_folder=True)
                ):
                    deeper.append((entry.path, seen, f"{below}/", ignored))
            elif patterns.includes_file(below) and not ignored.ignores(entry.path, is_folder=False):
                yield from _file_from_entry(entry, seen)
        waiting += reversed(deeper)


def _file_from_entry(entry: os.DirEntry[str], display_path: str) -> Iterator[SourceFile]:
    try:
        status = entry.stat()
    except OSError as error:
        lost = entry.is_symlink()
        why = "is a link that leads nowhere" if lost else f"cannot be read: {error.strerror}"
        yield SourceFile(entry.path, display_path, None, why)
        return
    if not stat.S_ISDIR(status.st_mode):
        yield _file_from_stat(entry.path, display_path, status)


def _file_from_stat(path: str, display_path: str, status: os.stat_result) -> SourceFile:
    if not stat.S_ISREG(status.st_mode):
        return SourceFile(path, display_path, None, "is no ordinary file")
    return SourceFile(path, display_path, Stamp(status.st_size, status.st_mtime_ns))


class _UserPatterns:
    """The person's own include and exclude."""

    def __init__(self, source: Source) -> None:
        self._include = _parse_patterns(source.include) if source.include else None
        self._exclude = _parse_patterns(source.exclude) if source.exclude else None

    def includes_file(self, relative_path: str) -> bool:
        """Whether a file is wanted, by its path below the source."""
        if self._exclude and self._exclude.match_file(relative_path):
            return False
        return self._include is None or self._include.match_file(relative_path)

    def excludes_folder(self, relative_path: str) -> bool:
        """Whether a folder is unwanted as a whole."""
        return bool(self._exclude and self._exclude.match_file(f"{relative_path}/"))


@dataclass(frozen=True)
class _IgnoreRules:
    """The `.gitignore` files that hold in a folder, the nearest last; it decides first."""

    specs: tuple[tuple[str, GitIgnoreSpec], ...] = field(default=())

    def with_folder(self, folder: str) -> _IgnoreRules:
        """With the folder's own `.gitignore`, where it has one; a pipe or a device is none."""
        path = Path(folder, ".gitignore")
        if not path.is_file():
            return self
        try:
            lines = path.read_text("utf-8", "replace").splitlines()
        except OSError:
            return self
        return _IgnoreRules((*self.specs, (folder, _parse_patterns(tuple(lines)))))

    def ignores(self, path: str, *, is_folder: bool) -> bool:
        """Whether an entry is left out."""
        for base, spec in reversed(self.specs):
            inside = os.path.relpath(path, base).replace(os.sep, "/")
            verdict = spec.check_file(f"{inside}/" if is_folder else inside).include
            if verdict is not None:
                return verdict
        return False


def _ignore_rules_above(root: Path) -> _IgnoreRules:
    """The `.gitignore` files from the top of a repository down to the folder above the root."""
    above = []
    for folder in root.absolute().parents if not (root / ".git").exists() else ():
        above.append(str(folder))
        if (folder / ".git").exists():
            break
    else:
        return _IgnoreRules()
    ignored = _IgnoreRules()
    for each in reversed(above):
        ignored = ignored.with_folder(each)
    return ignored


def _parse_patterns(lines: tuple[str, ...]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(line for line in lines if _is_valid_pattern(line))


def _is_valid_pattern(line: str) -> bool:
    from pathspec import GitIgnoreSpec

    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:  # git passes by a pattern that it cannot read, and so do we
        return False
    return True
