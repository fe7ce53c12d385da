"""What changed in an index's files since they were read; it reads only those that look changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from chatlm import UsageError
from chatlm_rag.manifest import FileRecord, Manifest
from chatlm_rag.sources import folders
from chatlm_rag.sources.document import Problem
from chatlm_rag.sources.folders import FoundFile, Source

_CLOCK_NS = 2_000_000_000
"""How coarse the times of files may be: one that changed so shortly before it was looked at may
change again without a new time."""


@dataclass(frozen=True)
class Wanted:
    """A file as it is to be in the index."""

    record: FileRecord
    """Its old one where it is kept, else one without passages."""
    kept: bool
    """Whether its passages are in the old index, as they have to be."""


@dataclass(frozen=True)
class Changes:
    """What an update has to do."""

    files: tuple[Wanted, ...]
    """In the order of the new index."""
    gone: int
    """Files of the old index that are in none of the sources any more."""
    missing: tuple[str, ...]
    """Sources that are not there; what the old index has of them stays."""
    stamped: bool
    """Whether a file has a new time, though the same content."""

    @property
    def nothing(self) -> bool:
        """Whether the old index is as it has to be."""
        return not self.gone and all(file.kept for file in self.files)

    @property
    def bytes(self) -> int:
        """What has to be read."""
        sizes = (
            file.record.stamp.size for file in self.files if not file.kept and file.record.stamp
        )
        return sum(sizes)


def look(sources: tuple[Source, ...], old: Manifest | None) -> Changes:
    """Compare the sources with an index.

    Args:
        sources: to be indexed.
        old: the index; None where there is none that passages could be taken from.

    Raises:
        UsageError: a source is not there, and nothing of it is in the old index.
    """
    before = {file.path: file for file in old.files} if old else {}
    wanted: dict[str, Wanted] = {}
    missing = []
    stamped = False
    for source in sources:
        try:
            for found in folders.files(source):
                if found.path not in wanted:
                    record = before.get(found.path)
                    wanted[found.path] = _wanted(found, record, old.looked_ns if old else 0)
                    stamped |= wanted[found.path].record != record
        except (OSError, ValueError) as error:  # no file can have the name, with a ValueError
            there = dict(_below(source, before))
            if not there:
                why = getattr(error, "strerror", error)
                raise UsageError(
                    f"{source.path} cannot be read: {why}.", hint="Check the path."
                ) from error
            missing.append(source.path)
            wanted |= there
    gone = len(before.keys() - wanted.keys())
    return Changes(tuple(wanted.values()), gone, tuple(missing), stamped)


def _below(source: Source, before: Mapping[str, FileRecord]) -> Iterator[tuple[str, Wanted]]:
    for path, record in before.items():
        if path == source.path or path.startswith(source.path.rstrip(os.sep) + os.sep):
            yield path, Wanted(record, kept=True)


def _wanted(found: FoundFile, record: FileRecord | None, looked_ns: int) -> Wanted:
    if found.stamp is None:
        problems = (Problem("", found.problem),)
        new = FileRecord(found.path, found.source, None, "", problems=problems)
        return Wanted(new, kept=record is not None and record.problems == problems)
    settled = found.stamp.mtime_ns < looked_ns - _CLOCK_NS
    if record and record.sha256 and record.stamp == found.stamp and settled:
        return Wanted(record, kept=True)
    try:
        with Path(found.path).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        problems = (Problem("", f"cannot be read: {error.strerror}"),)
        new = FileRecord(found.path, found.source, found.stamp, "", problems=problems)
        return Wanted(new, kept=record is not None and record.problems == problems)
    if record and record.sha256 == sha256 and record.source == found.source:
        return Wanted(replace(record, stamp=found.stamp), kept=True)
    return Wanted(FileRecord(found.path, found.source, found.stamp, sha256), kept=False)
