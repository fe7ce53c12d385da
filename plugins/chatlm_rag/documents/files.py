"""Find the files of a source: a single file, or all files below a folder that are not ignored."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlm_rag.documents.document import replace_surrogates
from chatlm_rag.documents.ignore_patterns import IgnorePatterns
from chatlm_rag.json_fields import get_int, get_str

LEADS_OUT = "is a link that leads out of the folder"
"""The problem of a link that is not followed."""


MAX_IGNORE_FILE_BYTES = 1_000_000
"""Limit for a `.gitignore`, so that comparing a name with its patterns takes no noticeable time."""


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
    follow_links: bool = False
    """Whether links that lead out of the folder are followed."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "path": self.path,
            "include": list(self.include),
            "exclude": list(self.exclude),
            "follow_links": self.follow_links,
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
            follow_links=bool(values.get("follow_links", False)),
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


def find_files(
    source: Source, check_cancelled: Callable[[], None] = lambda: None
) -> Iterator[SourceFile]:
    """Yield the files of a source in path order, without opening any but `.gitignore`.

    Skips hidden files and folders, and everything ignored by a `.gitignore` in or above the folder.
    These rules do not apply to the source itself. A link that leads out of the folder is yielded as
    a problem unless the source follows such links. A link to a folder inside is skipped.

    Args:
        source: a file or folder.
        check_cancelled: called for every entry of a folder; may raise.

    Raises:
        OSError: the source does not exist or cannot be accessed.
    """
    root = Path(source.path)
    if not root.is_dir():
        yield _file_from_stat(str(root), replace_surrogates(root.name), root.stat())
        return
    patterns = _UserPatterns(source)
    links = _Links(root, follow=source.follow_links)
    name = replace_surrogates(links.root.name)
    pending = [(str(root), name, "", _ignore_rules_above(root))]
    while pending:
        folder, display_path, prefix, rules = pending.pop()
        if not links.visits(folder):
            continue
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            rules = rules.with_folder(folder)
        except OSError as error:
            if folder == str(root):
                raise
            yield SourceFile(folder, display_path, None, f"cannot be listed: {error.strerror}")
            continue
        subfolders = []
        for entry in entries:
            check_cancelled()
            relative = f"{prefix}{entry.name}"
            display = f"{display_path}/{replace_surrogates(entry.name)}"
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                if (
                    entry.name in SKIPPED_FOLDERS
                    or patterns.excludes_folder(relative)
                    or rules.ignores(entry.path, is_folder=True)
                ):
                    continue
                if not entry.is_symlink() or links.enters_folder(entry):
                    subfolders.append((entry.path, display, f"{relative}/", rules))
                elif links.leads_out(entry):
                    yield SourceFile(entry.path, display, None, LEADS_OUT)
            elif patterns.includes_file(relative) and not rules.ignores(
                entry.path, is_folder=False
            ):
                yield (
                    SourceFile(entry.path, display, None, LEADS_OUT)
                    if links.leads_out(entry)
                    else _file_from_entry(entry, display)
                )
        pending += reversed(subfolders)


class _Links:
    """The symbolic links below a source, and which of them are followed.

    Args:
        root: the source's folder, which may itself be reached through links.
        follow: whether to follow links that lead out of the folder.
    """

    def __init__(self, root: Path, *, follow: bool) -> None:
        self.root = root.resolve()
        self._follow = follow
        self._visited: set[str] = set()

    def leads_out(self, entry: os.DirEntry[str]) -> bool:
        """Return whether it is a link out of the folder that is not followed."""
        return not self._follow and entry.is_symlink() and not self._stays_inside(entry)

    def enters_folder(self, link: os.DirEntry[str]) -> bool:
        """Return whether to list the folder a link leads to; one inside is found without it."""
        return self._follow and not self._stays_inside(link)

    def visits(self, folder: str) -> bool:
        """Return whether to list a folder: not if another link already led to it."""
        if not self._follow:
            return True
        target = os.path.realpath(folder)
        is_new = target not in self._visited
        self._visited.add(target)
        return is_new

    def _stays_inside(self, link: os.DirEntry[str]) -> bool:
        return Path(os.path.realpath(link.path)).is_relative_to(self.root)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False


def _file_from_entry(entry: os.DirEntry[str], display_path: str) -> SourceFile:
    try:
        status = entry.stat()
    except OSError as error:
        broken_link = entry.is_symlink()
        reason = "is a broken link" if broken_link else f"cannot be read: {error.strerror}"
        return SourceFile(entry.path, display_path, None, reason)
    return _file_from_stat(entry.path, display_path, status)


def _file_from_stat(path: str, display_path: str, status: os.stat_result) -> SourceFile:
    if not stat.S_ISREG(status.st_mode):
        return SourceFile(path, display_path, None, "is not a regular file")
    return SourceFile(path, display_path, Stamp(status.st_size, status.st_mtime_ns))


class _UserPatterns:
    """The user's include and exclude patterns."""

    def __init__(self, source: Source) -> None:
        self._include = IgnorePatterns(source.include) if source.include else None
        self._exclude = IgnorePatterns(source.exclude)

    def includes_file(self, relative_path: str) -> bool:
        """Return whether to index a file, given its path relative to the source."""
        if self._exclude.selects(relative_path, is_folder=False):
            return False
        return self._include is None or self._include.selects(relative_path, is_folder=False)

    def excludes_folder(self, relative_path: str) -> bool:
        """Return whether to skip a whole folder."""
        return self._exclude.selects(relative_path, is_folder=True)


@dataclass(frozen=True)
class _IgnoreRules:
    """The `.gitignore` files that apply to a folder, nearest last; the nearest takes precedence."""

    patterns: tuple[tuple[str, IgnorePatterns], ...] = field(default=())

    def with_folder(self, folder: str) -> _IgnoreRules:
        """Add the folder's own `.gitignore`, if it is a regular file.

        Raises:
            OSError: it is too large.
        """
        path = Path(folder, ".gitignore")
        if not path.is_file():
            return self
        try:
            with path.open("rb") as file:
                content = file.read(MAX_IGNORE_FILE_BYTES + 1)
        except OSError:  # git reads on without it too
            return self
        if len(content) > MAX_IGNORE_FILE_BYTES:
            limit = MAX_IGNORE_FILE_BYTES // 1_000_000
            raise OSError(errno.EFBIG, f"its .gitignore is larger than {limit} MB", str(path))
        lines = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").split("\n")
        patterns = IgnorePatterns(line.removesuffix("\r") for line in lines)
        return _IgnoreRules((*self.patterns, (folder, patterns)))

    def ignores(self, path: str, *, is_folder: bool) -> bool:
        """Return whether a file or folder is ignored."""
        for base, patterns in reversed(self.patterns):
            relative = os.path.relpath(path, base).replace(os.sep, "/")
            ignored = patterns.decide(relative, is_folder=is_folder)
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
