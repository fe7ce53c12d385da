"""Checksums of files: of the whole file, and of parts that can be checked in milliseconds.

A flipped byte in a file of weights changes replies without an error. Reading gigabytes at every
start would take seconds, so a file is divided into stripes: each is every n-th block of the file,
about 1 MB in all. A quick check reads the first block, which has the header, and one stripe that is
chosen at random; files up to 1 MB are one stripe and are checked in full.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

BLOCK_BYTES = 1 << 16

STRIPE_BYTES = 1 << 20
"""Limit of a stripe in bytes."""

_DIGEST_LENGTH = 16
"""Hex digits of a part's checksum: against accidents, not attacks."""


@dataclass(frozen=True)
class FileRecord:
    """Size and checksums of a file."""

    bytes: int
    sha256: str
    stripes: tuple[str, ...] = ()
    """Of the first block, then of each stripe of the others; empty if they were not recorded."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "bytes": self.bytes,
            "sha256": self.sha256,
            "stripes": list(self.stripes),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FileRecord:
        """Read back what `to_dict` returned.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            bytes=values["bytes"],
            sha256=values["sha256"],
            stripes=tuple(values.get("stripes", ())),
        )


def record_file(path: Path) -> FileRecord:
    """Read a whole file and return its record.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    whole, first = hashlib.sha256(), hashlib.sha256()
    stripes = [hashlib.sha256() for _ in range(_count_stripes(size))]
    with path.open("rb") as file:
        for number, block in enumerate(iter(lambda: file.read(BLOCK_BYTES), b"")):
            whole.update(block)
            part = stripes[(number - 1) % len(stripes)] if number else first
            part.update(block)
    digests = (part.hexdigest()[:_DIGEST_LENGTH] for part in (first, *stripes))
    return FileRecord(size, whole.hexdigest(), tuple(digests))


def find_quick_mismatch(
    path: Path, record: FileRecord, choose: Callable[[int], int] = random.randrange
) -> str:
    """Compare a file's size, first block and one stripe; return what is wrong, or "".

    Args:
        path: the file.
        record: what it was.
        choose: returns the number of the stripe to check, below its argument.

    Raises:
        OSError: it cannot be read.
    """
    if problem := find_size_mismatch(path, record):
        return problem
    if not record.stripes:
        return ""
    first, *stripes = record.stripes
    with path.open("rb", buffering=0) as file:
        if _digest(file.read(BLOCK_BYTES)) != first:
            return "its content changed"
        number = choose(len(stripes))
        blocks = _stripe_blocks(file, record.bytes, number, len(stripes))
        return "" if _digest(*blocks) == stripes[number] else "its content changed"


def find_mismatch(path: Path, record: FileRecord) -> str:
    """Compare every byte of a file; return what is wrong, or "".

    Raises:
        OSError: it cannot be read.
    """
    if problem := find_size_mismatch(path, record):
        return problem
    with path.open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == record.sha256
    return "" if same else "its content changed (SHA-256 differs)"


def find_size_mismatch(path: Path, record: FileRecord) -> str:
    """Compare only the size; return what is wrong, or ""."""
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    return "" if size == record.bytes else f"{size} bytes, should be {record.bytes}"


def _count_stripes(size: int) -> int:
    return max(1, -(-(size - BLOCK_BYTES) // STRIPE_BYTES))


def _stripe_blocks(file: IO[bytes], size: int, number: int, count: int) -> Iterator[bytes]:
    for start in range((1 + number) * BLOCK_BYTES, size, count * BLOCK_BYTES):
        file.seek(start)
        yield file.read(BLOCK_BYTES)


def _digest(*blocks: bytes) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()[:_DIGEST_LENGTH]
