"""Manifest of an index; changed files since."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from chatlm import UsageError, write_atomically
from chatlm_rag.documents import files as files_module
from chatlm_rag.documents.document import Problem
from chatlm_rag.documents.files import Source, SourceFile, Stamp
from chatlm_rag.index.chunks import Chunking
from chatlm_rag.index.embedding import EmbedderRecord
from chatlm_rag.index.folder import damaged_error
from chatlm_rag.json_fields import get_int, get_str

FILE = "manifest.json"


FORMAT = 1


@dataclass(frozen=True)
class BuildPlan:
    """What an index is to be made of, and how."""

    sources: tuple[Source, ...]
    embedder: str
    """As chatlm's models are called."""
    chunking: Chunking
    from_scratch: bool = False
    """Whether nothing of the old index is to be taken."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "sources": [source.to_dict() for source in self.sources],
            "embedder": self.embedder,
            "chunking": self.chunking.to_dict(),
            "anew": self.from_scratch,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BuildPlan:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            sources=tuple(map(Source.from_dict, values["sources"])),
            embedder=get_str(values, "embedder"),
            chunking=Chunking.from_dict(values["chunking"]),
            from_scratch=bool(values.get("anew", False)),
        )


@dataclass(frozen=True)
class FileRecord:
    """One file, as it was when it was read."""

    path: str
    source: str
    """What its passages are called; those of a corpus have the ids of its documents."""
    stamp: Stamp | None
    """None when it could not be looked at."""
    sha256: str
    """In hex; empty when it could not be read."""
    first_chunk: int = 0
    """The id of its first passage."""
    chunk_count: int = 0
    """How many passages it has; they follow each other."""
    problems: tuple[Problem, ...] = ()
    """What of it is not in the index."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "path": self.path,
            "source": self.source,
            "stamp": self.stamp and self.stamp.to_dict(),
            "sha256": self.sha256,
            "first": self.first_chunk,
            "count": self.chunk_count,
            "problems": [problem.to_dict() for problem in self.problems],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FileRecord:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            path=get_str(values, "path"),
            source=get_str(values, "source"),
            stamp=Stamp.from_dict(values["stamp"]) if values["stamp"] else None,
            sha256=get_str(values, "sha256"),
            first_chunk=get_int(values, "first", 0),
            chunk_count=get_int(values, "count", 0),
            problems=tuple(map(Problem.from_dict, values["problems"])),
        )


@dataclass(frozen=True)
class Manifest:
    """An index that is whole."""

    embedder: EmbedderRecord
    dimension: int
    """The length of a vector."""
    chunking: Chunking
    sources: tuple[Source, ...]
    files: tuple[FileRecord, ...]
    """In the order of their passages."""
    scanned_ns: int
    """When its files were looked at, in nanoseconds since 1970."""

    @property
    def plan(self) -> BuildPlan:
        """What made it."""
        return BuildPlan(self.sources, self.embedder.name, self.chunking)

    @property
    def chunk_count(self) -> int:
        """How many passages there are."""
        return sum(file.chunk_count for file in self.files)

    @property
    def problems(self) -> Iterator[tuple[FileRecord, Problem]]:
        """What was left out."""
        return ((file, problem) for file in self.files for problem in file.problems)

    def file_of(self, chunk_id: int) -> FileRecord:
        """The file that a passage is from, by the passage's id.

        Raises:
            IndexError: there is no such passage.
        """
        for file in self.files:
            if file.first_chunk <= chunk_id < file.first_chunk + file.chunk_count:
                return file
        raise IndexError(f"there is no passage {chunk_id}")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "embedder": self.embedder.to_dict(),
            "dimension": self.dimension,
            "chunking": self.chunking.to_dict(),
            "sources": [source.to_dict() for source in self.sources],
            "files": [file.to_dict() for file in self.files],
            "looked_ns": self.scanned_ns,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Manifest:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            embedder=EmbedderRecord.from_dict(values["embedder"]),
            dimension=get_int(values, "dimension"),
            chunking=Chunking.from_dict(values["chunking"]),
            sources=tuple(map(Source.from_dict, values["sources"])),
            files=tuple(map(FileRecord.from_dict, values["files"])),
            scanned_ns=get_int(values, "looked_ns"),
        )


def write(folder: Path, manifest: Manifest) -> None:
    """Put the manifest into an index's folder, in place of the one that is there."""
    table = {"format": FORMAT, **manifest.to_dict()}
    write_atomically(folder / FILE, [json.dumps(table, indent=1) + "\n"])


def read(folder: Path) -> Manifest:
    """The manifest of an index's folder.

    Raises:
        FileNotFoundError: there is none.
        ChatlmError: it is damaged, or of another version of chatlm.
    """
    name = folder.parent.name
    try:
        table = json.loads((folder / FILE).read_text(encoding="utf-8"))
        number = table["format"]
        if number == FORMAT:
            return _manifest_from_dict(table)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged_error(name, f"{FILE} is not what it was") from error
    raise damaged_error(name, f"it has the format {number}, and this chatlm reads {FORMAT}")


def _manifest_from_dict(values: dict[str, Any]) -> Manifest:
    made = Manifest.from_dict(values)
    behind = accumulate(file.chunk_count for file in made.files)
    ends = zip(made.files, behind, strict=True)
    if any(
        file.chunk_count and not 0 <= file.first_chunk < file.first_chunk + file.chunk_count == end
        for file, end in ends
    ):
        raise ValueError("its files do not follow each other")
    return made


_MTIME_RESOLUTION_NS = 2_000_000_000
"""How coarse the times of files may be: one that changed so shortly before it was looked at may
change again without a new time."""


@dataclass(frozen=True)
class PlannedFile:
    """A file as it is to be in the index."""

    record: FileRecord
    """Its old one where it is kept, else one without passages."""
    unchanged: bool
    """Whether its passages are in the old index, as they have to be."""


@dataclass(frozen=True)
class SourceChanges:
    """What an update has to do."""

    files: tuple[PlannedFile, ...]
    """In the order of the new index."""
    files_removed: int
    """Files of the old index that are in none of the sources any more."""
    missing_sources: tuple[str, ...]
    """Sources that are not there; what the old index has of them stays."""
    stamps_changed: bool
    """Whether a file has a new time, though the same content."""

    @property
    def is_empty(self) -> bool:
        """Whether the old index is as it has to be."""
        return not self.files_removed and all(file.unchanged for file in self.files)

    @property
    def bytes_to_read(self) -> int:
        """What has to be read."""
        sizes = (
            file.record.stamp.size
            for file in self.files
            if not file.unchanged and file.record.stamp
        )
        return sum(sizes)


def diff_sources(sources: tuple[Source, ...], old: Manifest | None) -> SourceChanges:
    """Compare the sources with an index.

    Args:
        sources: to be indexed.
        old: the index; None where there is none that passages could be taken from.

    Raises:
        UsageError: a source is not there, and nothing of it is in the old index.
    """
    before = {file.path: file for file in old.files} if old else {}
    wanted: dict[str, PlannedFile] = {}
    missing = []
    stamped = False
    for source in sources:
        try:
            for found in files_module.find_files(source):
                if found.path not in wanted:
                    record = before.get(found.path)
                    wanted[found.path] = _plan_file(found, record, old.scanned_ns if old else 0)
                    stamped |= wanted[found.path].record != record
        except (OSError, ValueError) as error:  # no file can have the name, with a ValueError
            there = dict(_old_files_below(source, before))
            if not there:
                why = getattr(error, "strerror", error)
                raise UsageError(
                    f"{source.path} cannot be read: {why}.", hint="Check the path."
                ) from error
            missing.append(source.path)
            wanted |= there
    gone = len(before.keys() - wanted.keys())
    return SourceChanges(tuple(wanted.values()), gone, tuple(missing), stamped)


def _old_files_below(
    source: Source, before: Mapping[str, FileRecord]
) -> Iterator[tuple[str, PlannedFile]]:
    for path, file_record in before.items():
        if path == source.path or path.startswith(source.path.rstrip(os.sep) + os.sep):
            yield path, PlannedFile(file_record, unchanged=True)


def _plan_file(source_file: SourceFile, record: FileRecord | None, scanned_ns: int) -> PlannedFile:
    if source_file.stamp is None:
        problems = (Problem("", source_file.problem),)
        new = FileRecord(source_file.path, source_file.source, None, "", problems=problems)
        return PlannedFile(new, unchanged=record is not None and record.problems == problems)
    settled = source_file.stamp.mtime_ns < scanned_ns - _MTIME_RESOLUTION_NS
    if record and record.sha256 and record.stamp == source_file.stamp and settled:
        return PlannedFile(record, unchanged=True)
    try:
        with Path(source_file.path).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        problems = (Problem("", f"cannot be read: {error.strerror}"),)
        new = FileRecord(
            source_file.path, source_file.source, source_file.stamp, "", problems=problems
        )
        return PlannedFile(new, unchanged=record is not None and record.problems == problems)
    if record and record.sha256 == sha256 and record.source == source_file.source:
        return PlannedFile(replace(record, stamp=source_file.stamp), unchanged=True)
    return PlannedFile(
        FileRecord(source_file.path, source_file.source, source_file.stamp, sha256), unchanged=False
    )
