"""Reach files inside of the folders that the user named, and nothing else.

A path is resolved first and must then be inside of a folder. It is opened one folder at a time
without following links, so that a link that is put there meanwhile leads nowhere either.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from chatlm import UsageError, one_line

MAX_FILE_BYTES = 4 << 20
"""Larger files are neither read nor searched."""


@dataclass(frozen=True)
class Place:
    """A path inside of one of the folders, with all links resolved."""

    root: Path
    path: Path

    @property
    def parts(self) -> tuple[str, ...]:
        """The names from the folder to the file."""
        return self.path.relative_to(self.root).parts

    def __str__(self) -> str:
        return str(self.path)


def resolve(folders: Sequence[Path], text: str) -> Place:
    """Find the place that a model names.

    Args:
        folders: those that the user named.
        text: absolute, below the home folder with `~`, or relative to one of the folders: to the
            first in which it exists, else to the first.

    Raises:
        UsageError: there are no folders, or it is outside of all of them.
    """
    if not folders:
        raise UsageError(
            "The user has not named any folder that tools may use.",
            hint="The user can add one to the setting tools.folders.",
        )
    if "\0" in text:
        raise UsageError("A path cannot have a NUL character.")
    roots = [Path(os.path.realpath(folder)) for folder in folders]
    named = Path(text.strip() or ".").expanduser()
    tried = [named] if named.is_absolute() else [root / named for root in roots]
    places = []
    for path in tried:
        real = Path(os.path.realpath(path))
        for root in roots:
            if real == root or root in real.parents:
                places.append(Place(root, real))
                break
    for place in places:
        if place.path.exists():
            return place
    if places:
        return places[0]
    allowed = ", ".join(one_line(str(root), 100) for root in roots)
    raise UsageError(f"{one_line(text, 100)} is outside of the folders that may be used: {allowed}")


@contextmanager
def open_folder(place: Place, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """Open a folder below a place's root, one step at a time, without following links.

    Args:
        place: whose root is meant.
        parts: the names on the way.
        make: whether missing folders are made.

    Raises:
        OSError: one of them does not exist, or has become a link.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(place.root, flags)
    try:
        for part in parts:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=descriptor)
            below = os.open(part, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def read_bytes(place: Place) -> bytes:
    """Read a regular file.

    Raises:
        UsageError: it is no regular file, or too large.
        OSError: it cannot be read.
    """
    if not place.parts:
        raise UsageError(f"{place} is a folder.")
    with open_folder(place, place.parts[:-1]) as folder:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(place.parts[-1], flags, dir_fd=folder)
    try:
        about = os.fstat(descriptor)
        if stat.S_ISDIR(about.st_mode):
            raise UsageError(f"{place} is a folder.")
        if not stat.S_ISREG(about.st_mode):
            raise UsageError(f"{place} is no regular file.")
        if about.st_size > MAX_FILE_BYTES:
            raise UsageError(f"{place} is larger than {MAX_FILE_BYTES >> 20} MB.")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)


def read_text(place: Place) -> str:
    """Read a text file in UTF-8.

    Raises:
        UsageError: it is no regular file, too large, or no text.
        OSError: it cannot be read.
    """
    data = read_bytes(place)
    if b"\0" in data:
        raise UsageError(f"{place} is no text file.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{place} is not in UTF-8, so it is neither read nor changed.") from None


def write_text(place: Place, text: str | None) -> None:
    """Replace a file as a whole, or remove it; it keeps its permissions.

    Args:
        place: the file.
        text: None removes it.

    Raises:
        UsageError: it is a folder.
        OSError: it cannot be written.
    """
    if not place.parts:
        raise UsageError(f"{place} is a folder.")
    name = place.parts[-1]
    with open_folder(place, place.parts[:-1], make=text is not None) as folder:
        if text is None:
            os.unlink(name, dir_fd=folder)
            return
        mode = 0o644
        try:
            about = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(about.st_mode):
                raise UsageError(f"{place} is no regular file.")
            mode = stat.S_IMODE(about.st_mode)
        except FileNotFoundError:
            pass
        # Written beside it and moved there, so that a crash leaves either the old or the new.
        beside = f".{name[:100]}.{os.getpid()}.chatlm"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(beside, flags, 0o600, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(beside, dir_fd=folder)
            raise


def walk(place: Place, limit: int) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield regular files below a folder, sorted; hidden folders and links are left out.

    Args:
        place: the folder.
        limit: of files and folders that are looked at.

    Yields:
        the path relative to the folder, and the entry.
    """
    seen = 0
    pending = [(place.path, "")]
    while pending:
        path, prefix = pending.pop()
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            seen += 1
            if seen > limit:
                return
            if entry.is_symlink():
                continue
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith("."):
                    pending.append((Path(entry.path), f"{prefix}{entry.name}/"))
            elif entry.is_file(follow_symlinks=False):
                yield f"{prefix}{entry.name}", entry
