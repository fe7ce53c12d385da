"""Find the files of a source: a single file, or all files below a folder that are not ignored."""

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
"""Generated folders that are skipped, as hidden ones are."""


@dataclass(frozen=True)
class Source:
    """A file or folder that is indexed."""

    path: str
    include: tuple[str, ...] = ()
    """Patterns in `.gitignore` syntax; only matching files are indexed. Empty for all files."""
    exclude: tuple[str, ...] = ()
    """Patterns in `.gitignore` syntax; matching files and folders are skipped."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "path": self.path,
            "include": list(self.include),
            "exclude": list(self.exclude),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Source:
        """Read the result of `to_dict`.

        Raises:
            KeyError, TypeError: a value is missing or has the wrong type.
        """
        return cls(
            path=get_str(values, "path"),
            include=tuple(map(str, values["include"])),
            exclude=tuple(map(str, values["exclude"])),
        )


@dataclass(frozen=True)
class Stamp:
    """Size and modification time of a file; while both stay the same it counts as unchanged."""

    size: int
    """Bytes."""
    mtime_ns: int
    """Nanoseconds since 1970."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "size": self.size,
            "mtime_ns": self.mtime_ns,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Stamp:
        """Read the result of `to_dict`.

        Raises:
            KeyError, TypeError: a value is missing or has the wrong type.
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
    """Path relative to the source's parent folder, with forward slashes; names its passages. Bytes
    that are not UTF-8 are replaced."""
    stamp: Stamp | None
    """None if the file cannot be accessed."""
    problem: str = ""
    """Why it cannot be accessed."""


def find_files(source: Source) -> Iterator[SourceFile]:
    """Yield the files of a source in path order, without opening any but `.gitignore`.

    Skips hidden files and folders, links to folders, and everything ignored by a `.gitignore` in or
    above the folder. These rules do not apply to the source itself.

    Raises:
        OSError: the source does not exist or cannot be accessed.
    """
    root = Path(source.path)
    if not root.is_dir():
        yield _file_from_stat(str(root), replace_surrogates(root.name), root.stat())
        return
    patterns = _UserPatterns(source)
    name = replace_surrogates(root.resolve().name)
    pending = [(str(root), name, "", _ignore_rules_above(root))]
    while pending:
        folder, display_path, prefix, rules = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == str(root):
                raise
            yield SourceFile(folder, display_path, None, f"cannot be listed: {error.strerror}")
            continue
        rules = rules.with_folder(folder)
        subfolders = []
        for entry in entries:
            relative = f"{prefix}{entry.name}"
            display = f"{display_path}/{replace_surrogates(entry.name)}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in SKIPPED_FOLDERS and not (
                    patterns.excludes_folder(relative) or rules.ignores(entry.path, is_folder=True)
                ):
                    subfolders.append((entry.path, display, f"{relative}/", rules))
            elif patterns.includes_file(relative) and not rules.ignores(
                entry.path, is_folder=False
            ):
                yield from _file_from_entry(entry, display)
        pending += reversed(subfolders)


def _file_from_entry(entry: os.DirEntry[str], display_path: str) -> Iterator[SourceFile]:
    try:
        status = entry.stat()
    except OSError as error:
        broken_link = entry.is_symlink()
        reason = "is a broken link" if broken_link else f"cannot be read: {error.strerror}"
        yield SourceFile(entry.path, display_path, None, reason)
        return
    if not stat.S_ISDIR(status.st_mode):
        yield _file_from_stat(entry.path, display_path, status)


def _file_from_stat(path: str, display_path: str, status: os.stat_result) -> SourceFile:
    if not stat.S_ISREG(status.st_mode):
        return SourceFile(path, display_path, None, "is not a regular file")
    return SourceFile(path, display_path, Stamp(status.st_size, status.st_mtime_ns))


class _UserPatterns:
    """The user's include and exclude patterns."""

    def __init__(self, source: Source) -> None:
        self._include = _parse_patterns(source.include) if source.include else None
        self._exclude = _parse_patterns(source.exclude) if source.exclude else None

    def includes_file(self, relative_path: str) -> bool:
        """Return whether to index a file, given its path relative to the source."""
        if self._exclude and self._exclude.match_file(relative_path):
            return False
        return self._include is None or self._include.match_file(relative_path)

    def excludes_folder(self, relative_path: str) -> bool:
        """Return whether to skip a whole folder."""
        return bool(self._exclude and self._exclude.match_file(f"{relative_path}/"))


@dataclass(frozen=True)
class _IgnoreRules:
    """The `.gitignore` files that apply to a folder, nearest last; the nearest takes precedence."""

    specs: tuple[tuple[str, GitIgnoreSpec], ...] = field(default=())

    def with_folder(self, folder: str) -> _IgnoreRules:
        """Add the folder's own `.gitignore`, if it is a regular file."""
        path = Path(folder, ".gitignore")
        if not path.is_file():
            return self
        try:
            lines = path.read_text("utf-8", "replace").splitlines()
        except OSError:
            return self
        return _IgnoreRules((*self.specs, (folder, _parse_patterns(tuple(lines)))))

    def ignores(self, path: str, *, is_folder: bool) -> bool:
        """Return whether a file or folder is ignored."""
        for base, spec in reversed(self.specs):
            relative = os.path.relpath(path, base).replace(os.sep, "/")
            ignored = spec.check_file(f"{relative}/" if is_folder else relative).include
            if ignored is not None:
                return ignored
        return False


def _ignore_rules_above(root: Path) -> _IgnoreRules:
    """Return the rules of the enclosing repository, down to the folder above the root."""
    parents = []
    for folder in root.absolute().parents if not (root / ".git").exists() else ():
        parents.append(str(folder))
        if (folder / ".git").exists():
            break
    else:
        return _IgnoreRules()
    rules = _IgnoreRules()
    for parent in reversed(parents):
        rules = rules.with_folder(parent)
    return rules


def _parse_patterns(lines: tuple[str, ...]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(line for line in lines if _is_valid_pattern(line))


def _is_valid_pattern(line: str) -> bool:
    from pathspec import GitIgnoreSpec

    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:  # git skips invalid patterns too
        return False
    return True
