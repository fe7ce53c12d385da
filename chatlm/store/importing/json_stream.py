"""Streaming reader of the JSON values in a file, each with its location."""

from __future__ import annotations

import dataclasses
import io
import json
import lzma
import re
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import IO, Any

from chatlm.config.paths import check_regular_file
from chatlm.errors import UsageError
from chatlm.store.blobs import MAX_IMAGE_BYTES

MAX_CHAT_BYTES = 256 * 2**20
"""Maximum size of one chat; a larger one is not read into memory."""


MAX_ZIP_RATIO = 100
"""Maximum size of unpacked chats, as a multiple of their size in the ZIP file; text reaches 20."""


MIN_CHECKED_BYTES = 16 * 2**20
"""Chats that unpack to less than this are read whatever their ratio."""


CHUNK_BYTES = 2**16


_CHATGPT_MEMBER = re.compile(r"(?:.*/)?conversations(?:-\d+)?\.json")
"""Files with chats in the ZIP file of ChatGPT's export."""


_WHITESPACE = re.compile(r"\s*")


_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    NotImplementedError,
)
"""Errors for a ZIP file that is truncated, damaged, encrypted or of an unsupported method."""


@dataclass(frozen=True)
class ParsedJson:
    """A JSON value."""

    value: Any


@dataclass(frozen=True)
class InvalidJson:
    """Input that is not valid JSON, and why."""

    problem: str


FindFile = Callable[[str], tuple[str, bytes] | None]
"""Beginning of a file's name -> name and content of the file with it in the same archive; None if
there is none, or if it is too large or damaged."""


def _find_no_file(beginning: str) -> None:
    return None


@dataclass(frozen=True)
class JsonItem:
    """One value of a file."""

    content: ParsedJson | InvalidJson
    location: str
    """Such as `line 3`."""
    bytes_read: int
    """Bytes read so far."""
    total_bytes: int
    """Size of the input in bytes."""
    find_file: FindFile = _find_no_file
    """Finds a file beside the JSON; valid until the next item is read."""


def iter_json_items(path: Path) -> Iterator[JsonItem]:
    """Yield the lines of JSON lines, the elements of a JSON list, or those of files in a ZIP file.

    Raises:
        OSError, UsageError: the file cannot be read.
    """
    check_regular_file(path)
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            yield from _iter_file(file, 0, path.stat().st_size, "")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                info for info in archive.infolist() if _CHATGPT_MEMBER.fullmatch(info.filename)
            ]
            total = sum(info.file_size for info in members)
            packed = sum(info.compress_size for info in members)
            if total > max(MIN_CHECKED_BYTES, MAX_ZIP_RATIO * packed):
                raise UsageError(
                    f"{path} is not read: its chats would unpack to {total // 2**20:,} MiB, "
                    f"more than {MAX_ZIP_RATIO} times their size in the ZIP file.",
                    hint="If you trust it, unpack it, then import the conversations.json in it.",
                )
            find_file = _ArchiveFiles(archive).find
            done = 0
            for info in sorted(members, key=lambda info: info.filename):
                before = f"{info.filename}, " if len(members) > 1 else ""
                with archive.open(info) as member:
                    for item in _iter_file(member, done, total, before):
                        yield dataclasses.replace(item, find_file=find_file)
                done += info.file_size
    except _ZIP_ERRORS as error:
        raise UsageError(
            f"{path} is a ZIP file that cannot be read: {error}.",
            hint="Unpack it, then import the conversations.json in it.",
        ) from error
    if not members:
        raise UsageError(
            f"{path} is a ZIP file without chats.",
            hint="The ZIP file that ChatGPT sends holds conversations.json.",
        )


class _ArchiveFiles:
    """The files of an archive by the beginning of their names."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._by_name = sorted(
            ((PurePosixPath(info.filename).name, info) for info in archive.infolist()),
            key=itemgetter(0),
        )

    def find(self, beginning: str) -> tuple[str, bytes] | None:
        start = bisect_left(self._by_name, beginning, key=itemgetter(0))
        for name, info in islice(self._by_name, start, None):
            if not name.startswith(beginning):
                return None
            rest = name[len(beginning) :]
            if rest[:1] in ("", "-", ".") and info.file_size <= MAX_IMAGE_BYTES:
                try:
                    return name, self._archive.read(info)
                except _ZIP_ERRORS:
                    return None
        return None


def _iter_file(
    file: IO[bytes], bytes_before: int, total_bytes: int, location_prefix: str
) -> Iterator[JsonItem]:
    """Yield the values of one file: a list or object over many lines, else one object a line."""
    first = file.readline(CHUNK_BYTES).removeprefix(b"\xef\xbb\xbf").strip()
    file.seek(0)
    if first.startswith(b"[") or first == b"{":
        text = io.TextIOWrapper(file, encoding="utf-8-sig")
        found, unit = _JsonArrayReader(text).iter_elements(), "chat"
    else:
        found, unit = _iter_lines(file), "line"
    for number, content in found:
        yield JsonItem(
            content, f"{location_prefix}{unit} {number}", bytes_before + file.tell(), total_bytes
        )


def _iter_lines(file: IO[bytes]) -> Iterator[tuple[int, ParsedJson | InvalidJson]]:
    number = 0
    while line := file.readline(MAX_CHAT_BYTES + 1):
        number += 1
        whole = len(line) <= MAX_CHAT_BYTES
        while not line.endswith(b"\n") and len(line) > MAX_CHAT_BYTES:
            line = file.readline(MAX_CHAT_BYTES + 1)
        if not whole:
            yield number, InvalidJson(_too_large_message())
        elif line := line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").strip():
            yield number, _parse_line(line)


def _parse_line(line: bytes) -> ParsedJson | InvalidJson:
    try:
        return ParsedJson(json.loads(line.decode()))
    except UnicodeDecodeError:
        return InvalidJson("this is not UTF-8 text")
    except json.JSONDecodeError as error:
        return InvalidJson(f"this is not JSON: {error.msg} at character {error.pos + 1}")
    except (ValueError, RecursionError):
        return InvalidJson("this JSON is nested too deeply or holds too long a number")


class _JsonArrayReader:
    """Yield the elements of a JSON list, or a single value, reading ahead as little as needed."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        self._file = file
        self._buffer, self._position = "", 0
        self._decoder = json.JSONDecoder()

    def iter_elements(self) -> Iterator[tuple[int, ParsedJson | InvalidJson]]:
        number = 1
        try:
            in_list = self._peek() == "["
            self._position += in_list
            mark = self._peek()
            while mark and not (in_list and mark == "]"):
                yield number, ParsedJson(self._decode_value())
                number += 1
                mark = self._peek()
                if in_list and mark == ",":
                    self._position += 1
                    mark = self._peek()
                elif in_list and mark != "]":
                    break
            self._position += in_list
            if in_list and (mark != "]" or self._peek()):
                yield number, InvalidJson("this is not JSON: the list does not end as it should")
        except UnicodeDecodeError:
            yield number, InvalidJson("this is not UTF-8 text")
        except RecursionError:
            yield number, InvalidJson("this JSON is nested too deeply")
        except json.JSONDecodeError as error:
            yield number, InvalidJson(f"this is not JSON: {error.msg}")
        except ValueError as error:
            yield number, InvalidJson(str(error))

    def _decode_value(self) -> Any:
        self._peek()
        while True:
            try:
                value, self._position = self._decoder.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError:
                if len(self._buffer) - self._position > MAX_CHAT_BYTES:
                    raise ValueError(_too_large_message()) from None
                if not self._read_more():
                    raise
            else:
                return value

    def _peek(self) -> str:
        """Return the next non-blank character; empty at the end."""
        while True:
            blank = _WHITESPACE.match(self._buffer, self._position)
            self._position = blank.end() if blank else self._position
            if self._position < len(self._buffer) or not self._read_more():
                return self._buffer[self._position : self._position + 1]

    def _read_more(self) -> bool:
        """Double the buffer, so that a long value is parsed a few times only."""
        left = self._buffer[self._position :]
        more = self._file.read(max(CHUNK_BYTES, len(left)))
        self._buffer, self._position = left + more, 0
        return bool(more)


def _too_large_message() -> str:
    return f"this chat is larger than {MAX_CHAT_BYTES // 2**20} MiB"
