"""Reads the files that are attached to a message: plain text itself, other formats by plugins."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from threading import Lock

from chatlm.config.paths import check_regular_file
from chatlm.errors import ChatlmError, UsageError
from chatlm.plugin_host.host import PluginHost
from chatlm.text import one_line

MAX_FILE_BYTES = 1_000_000
"""Bytes that a file, or the text that a plugin reads from one, may have."""

MAX_NAME_WIDTH = 200
"""Characters of a file's name in the message."""

CACHED_FILES = 8
"""Files whose text is kept, so that sending need not read again what was just counted."""


class AttachmentReader:
    """Reads attached files; its methods may be called in any thread.

    Args:
        plugins: may read formats other than plain text.
    """

    def __init__(self, plugins: PluginHost) -> None:
        self._plugins = plugins
        self._lock = Lock()
        self._cache: OrderedDict[tuple[Path, int, int], str] = OrderedDict()

    def __call__(self, path: Path, name: str) -> str:
        """Return the text of a file.

        Args:
            path: the file.
            name: how the user named it, for messages.

        Raises:
            UsageError: it is missing, unreadable, too large, or in a format that nobody reads.
        """
        try:
            check_regular_file(path)
            stat = path.stat()
        except (OSError, ValueError):
            return read_text_file(path, name)  # raises with the reason
        key = (path, stat.st_mtime_ns, stat.st_size)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        text = self._read(path, name)
        with self._lock:
            self._cache[key] = text
            while len(self._cache) > CACHED_FILES:
                self._cache.popitem(last=False)
        return text

    def _read(self, path: Path, name: str) -> str:
        result: str | ChatlmError | None = self._plugins.call_hook("read_attachment", path=path)
        if result is None:
            return read_text_file(path, name)
        if isinstance(result, ChatlmError):
            raise UsageError(f"{one_line(name, MAX_NAME_WIDTH)}: {result.message}", result.hint)
        if len(result.encode()) > MAX_FILE_BYTES:
            raise _too_large(name)
        return result


def read_text_file(path: Path, name: str) -> str:
    """Return the text of a file, without a byte order mark and with plain line ends.

    Raises:
        UsageError: it is missing, unreadable, no UTF-8 text, or larger than `MAX_FILE_BYTES`.
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
    if len(data) > MAX_FILE_BYTES:
        raise _too_large(name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown} is not UTF-8 text") from error
    if "\0" in text:
        raise UsageError(f"{shown} is not a text file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def format_block(name: str, text: str) -> str:
    """Return a file as a message shows it: its name, and its text in a fence that it lacks."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(longest + 1, 3)
    return f"{one_line(name, MAX_NAME_WIDTH)}\n{fence}\n{text.removesuffix(chr(10))}\n{fence}"


def _too_large(name: str) -> UsageError:
    return UsageError(
        f"{one_line(name, MAX_NAME_WIDTH)} is larger than {MAX_FILE_BYTES // 1_000_000} MB",
        hint="Paste the relevant part instead.",
    )
