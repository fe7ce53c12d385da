"""Read files that are attached to a message: plain text, and other formats through plugins."""

from __future__ import annotations

import codecs
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from chatlm.config.paths import check_regular_file
from chatlm.errors import ChatlmError, UsageError
from chatlm.text import one_line

if TYPE_CHECKING:  # slow to load, and not needed before a file is read
    from chatlm.plugin_host.host import PluginHost

MAX_FILE_BYTES = 1_000_000
"""Maximum size of a text file, or of the text that a plugin reads from a file."""

MAX_NAME_WIDTH = 200
"""Maximum characters of a file's name in a message."""

MAX_FOLDER_FILES = 100
"""Maximum number of files of an attached folder."""

FileReader = Callable[[Path, str], str]
"""Returns the text of a file, from its path and the name for messages; raises UsageError."""

CACHED_FILES = 8
"""Files whose text is kept, so that sending need not read again what was just counted."""


FileVersion = tuple[Path, int, int]
"""Path, modification time in nanoseconds and size of a file."""


class FileTooLarge(UsageError):
    """A file has more text than `MAX_FILE_BYTES`.

    Args:
        name: how the user named it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{one_line(name, MAX_NAME_WIDTH)} is larger than {MAX_FILE_BYTES // 1_000_000} MB",
            hint="Paste the relevant part instead.",
        )


class FolderTooLarge(UsageError):
    """A folder has more text than a message can take; see `chatlm.FolderIndexer`.

    Args:
        message: what is too much.
        folder: the folder.
        name: how the user named it.
    """

    def __init__(self, message: str, folder: Path, name: str) -> None:
        hint = f"Attach a part of it, or build an index of it: /rag build {name}"
        super().__init__(message, hint)
        self.folder = folder


class AttachmentReader:
    """Reads attached files, in any thread; a file that is being read is not read twice.

    Reading may take long, or never end: a plugin may do it.

    Args:
        plugins: may read formats other than plain text.
    """

    def __init__(self, plugins: PluginHost) -> None:
        self._plugins = plugins
        self._lock = Lock()
        self._reads: OrderedDict[FileVersion, Future[str]] = OrderedDict()
        """Files that are being read or were read lately."""

    def __call__(self, path: Path, name: str) -> str:
        """Return the text of a file.

        Args:
            path: the file.
            name: how the user named it, for messages.

        Raises:
            UsageError: it is missing, unreadable, too large, or in a format that nothing reads.
        """
        try:
            check_regular_file(path)
            stat = path.stat()
        except (OSError, ValueError):
            return read_text_file(path, name)  # raises with the reason
        version = (path, stat.st_mtime_ns, stat.st_size)
        with self._lock:
            read = self._reads.get(version)
            is_new = read is None
            if read is None:
                read = self._reads[version] = Future()
            self._reads.move_to_end(version)
        if is_new:
            self._fill(read, version, name)
        return read.result()

    def _fill(self, read: Future[str], version: FileVersion, name: str) -> None:
        """Read a file for all who wait for it; forget a failure, so that it can be read again."""
        try:
            read.set_result(self._read(version[0], name))
        except BaseException as error:
            with self._lock:
                del self._reads[version]
            read.set_exception(error)
            return
        with self._lock:
            done = [version for version, other in self._reads.items() if other.done()]
            for version in done[:-CACHED_FILES]:
                del self._reads[version]

    def _read(self, path: Path, name: str) -> str:
        result: str | ChatlmError | None = self._plugins.call_hook("read_attachment", path=path)
        if result is None:
            return read_text_file(path, name)
        if isinstance(result, ChatlmError):
            raise UsageError(f"{one_line(name, MAX_NAME_WIDTH)}: {result.message}", result.hint)
        if len(result.encode()) > MAX_FILE_BYTES:
            raise FileTooLarge(name)
        return result


def read_text_file(path: Path, name: str) -> str:
    """Return the text of a file, without a byte order mark and with plain line ends.

    Raises:
        FileTooLarge: it has more text than `MAX_FILE_BYTES`.
        UsageError: it is missing, unreadable, or no UTF-8 text.
    """
    shown = one_line(name, MAX_NAME_WIDTH)
    try:
        check_regular_file(path)
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise UsageError(f"{shown} does not exist", hint="Check the path.") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{shown} cannot be read: {why}") from error
    is_cut = len(data) > MAX_FILE_BYTES  # maybe within a character
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(data, final=not is_cut)
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown} is not UTF-8 text") from error
    if "\0" in text:
        raise UsageError(f"{shown} is not a text file")
    if is_cut:
        raise FileTooLarge(name)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_blocks(
    path: Path,
    name: str,
    read_file: FileReader,
    folder_fits: Callable[[str], bool] = lambda text: True,
) -> list[str]:
    """Return a file as a message shows it, or each file of a folder; see `format_block`.

    Hidden files are left out. Those of a folder that have no text are named in a last block.

    Args:
        path: a file or folder.
        name: how the user named it.
        read_file: reads a file.
        folder_fits: whether a message can take the text of a folder.

    Raises:
        FolderTooLarge: the folder has more than `MAX_FOLDER_FILES` files, more than
            `MAX_FILE_BYTES` of text, or does not fit.
        UsageError: the file cannot be read; the folder has no text.
    """
    if not path.is_dir():
        return [format_block(name, read_file(path, name))]
    shown = one_line(name, MAX_NAME_WIDTH)
    blocks, left_out, size = [], [], 0
    for file in _files_below(path, shown):
        inner = f"{name.rstrip('/')}/{file.relative_to(path).as_posix()}"
        try:
            text = read_file(file, inner)
            size += len(text.encode("utf-8", "replace"))
            if size > MAX_FILE_BYTES:
                raise FileTooLarge(inner)
        except FileTooLarge as error:
            message = f"{shown} has more than {MAX_FILE_BYTES // 1_000_000} MB of text"
            raise FolderTooLarge(message, path, shown) from error
        except UsageError:
            left_out.append(inner)
            continue
        blocks.append(format_block(inner, text))
    if not blocks:
        raise UsageError(f"{shown} has no files with text", hint="Name another folder.")
    if not folder_fits("\n\n".join(blocks)):
        raise FolderTooLarge(f"{shown} does not fit the model's context", path, shown)
    if left_out:
        blocks.append(f"Files of {shown} without text, left out: {', '.join(left_out)}")
    return blocks


def _files_below(folder: Path, name: str) -> list[Path]:
    """Return the files below a folder, sorted; hidden ones and links are left out."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        paths = (Path(parent, each) for each in sorted(files) if not each.startswith("."))
        found += [path for path in paths if not path.is_symlink()]
        if len(found) > MAX_FOLDER_FILES:
            raise FolderTooLarge(f"{name} has more than {MAX_FOLDER_FILES} files", folder, name)
    return found


def format_block(name: str, text: str) -> str:
    """Return a file as a message shows it: its name, and its text in a fence that it lacks."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(longest + 1, 3)
    return f"{one_line(name, MAX_NAME_WIDTH)}\n{fence}\n{text.removesuffix(chr(10))}\n{fence}"
