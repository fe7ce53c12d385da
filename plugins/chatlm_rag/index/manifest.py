"""The manifest of an index: its settings, sources and files; find files changed since the build."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from chatlm import UsageError, write_atomically
from chatlm_rag.documents.document import Problem
from chatlm_rag.documents.files import Source, SourceFile, Stamp, find_files
from chatlm_rag.index.chunks import Chunking
from chatlm_rag.index.embedding import EmbedderRecord
from chatlm_rag.index.folder import damaged_error
from chatlm_rag.json_fields import get_int, get_str

FILE = "manifest.json"


FORMAT = 1


@dataclass(frozen=True)
class BuildPlan:
    """The inputs of a build."""

    sources: tuple[Source, ...]
    embedder: str
    """Name of the model in chatlm's catalogue."""
    chunking: Chunking
    from_scratch: bool = False
    """Whether to reuse nothing of the old index."""
    cut_to: int = 0
    """Size to which vectors are cut (Matryoshka); 0 for the whole."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "sources": [source.to_dict() for source in self.sources],
            "embedder": self.embedder,
            "chunking": self.chunking.to_dict(),
            "anew": self.from_scratch,
            "cut_to": self.cut_to,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BuildPlan:
        """Read the result of `to_dict`.

        Raises:
            KeyError, TypeError: a value is missing or has the wrong type.
        """
        return cls(
            sources=tuple(map(Source.from_dict, values["sources"])),
            embedder=get_str(values, "embedder"),
            chunking=Chunking.from_dict(values["chunking"]),
            from_scratch=bool(values.get("anew", False)),
            cut_to=get_int(values, "cut_to", 0),
        )


@dataclass(frozen=True)
class FileRecord:
    """One file of an index, as it was when it was read."""

    path: str
    source: str
    """Name of the file in its passages; passages of a corpus have document ids instead."""
    stamp: Stamp | None
    """None if the file could not be accessed."""
    sha256: str
    """In hex; empty if the file could not be read."""
    first_chunk: int = 0
    """Id of its first chunk; the ids of a file are consecutive."""
    chunk_count: int = 0
    problems: tuple[Problem, ...] = ()
    """Parts that could not be indexed."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
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
        """Read the result of `to_dict`.

        Raises:
            KeyError, TypeError: a value is missing or has the wrong type.
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
    """The contents of a complete index."""

    embedder: EmbedderRecord
    dimension: int
    """Size of a vector."""
    chunking: Chunking
    sources: tuple[Source, ...]
    files: tuple[FileRecord, ...]
    """In the order of their chunks."""
    scanned_ns: int
    """When the sources were scanned, in nanoseconds since 1970."""

    @property
    def plan(self) -> BuildPlan:
        """The plan that builds this index."""
        return BuildPlan(
            self.sources, self.embedder.name, self.chunking, cut_to=self.embedder.cut_to
        )

    @property
    def chunk_count(self) -> int:
        """Number of chunks in the index."""
        return sum(file.chunk_count for file in self.files)

    @property
    def problems(self) -> Iterator[tuple[FileRecord, Problem]]:
        """The problems of all files."""
        return ((file, problem) for file in self.files for problem in file.problems)

    def file_of(self, chunk_id: int) -> FileRecord:
        """Return the file that contains a chunk.

        Raises:
            IndexError: there is no such chunk.
        """
        for file in self.files:
            if file.first_chunk <= chunk_id < file.first_chunk + file.chunk_count:
                return file
        raise IndexError(f"there is no chunk {chunk_id}")

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
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
        """Read the result of `to_dict`.

        Raises:
            KeyError, TypeError: a value is missing or has the wrong type.
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
    """Write the manifest of an index version, replacing an existing one."""
    values = {"format": FORMAT, **manifest.to_dict()}
    write_atomically(folder / FILE, [json.dumps(values, indent=1) + "\n"])


def read(folder: Path) -> Manifest:
    """Read the manifest of an index version.

    Raises:
        FileNotFoundError: there is none.
        ChatlmError: it is damaged, or in the format of another chatlm version.
    """
    name = folder.parent.name
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        number = values["format"]
        if number == FORMAT:
            return _manifest_from_dict(values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged_error(name, f"{FILE} is damaged") from error
    raise damaged_error(name, f"it has format {number}, but this chatlm reads format {FORMAT}")


def _manifest_from_dict(values: dict[str, Any]) -> Manifest:
    manifest = Manifest.from_dict(values)
    ends = accumulate(file.chunk_count for file in manifest.files)
    if any(
        file.chunk_count and not 0 <= file.first_chunk < file.first_chunk + file.chunk_count == end
        for file, end in zip(manifest.files, ends, strict=True)
    ):
        raise ValueError("the chunk ids of its files are not consecutive")
    return manifest


_MTIME_RESOLUTION_NS = 2_000_000_000
"""Coarsest resolution of file times. A file that changed this shortly before a scan may change
again without a new modification time."""


@dataclass(frozen=True)
class PlannedFile:
    """A file of the new index."""

    record: FileRecord
    """The old record if the file is unchanged, else one without chunks."""
    unchanged: bool
    """Whether the chunks of the old index can be copied."""


@dataclass(frozen=True)
class SourceChanges:
    """The differences between the sources and an index."""

    files: tuple[PlannedFile, ...]
    """In the order of the new index."""
    files_removed: int
    """Number of files of the old index that are no longer in any source."""
    missing_sources: tuple[str, ...]
    """Sources that do not exist at the moment; their files stay in the index."""
    stamps_changed: bool
    """Whether any file has a new modification time but the same content."""

    @property
    def is_empty(self) -> bool:
        """Whether the index is up to date."""
        return not self.files_removed and all(file.unchanged for file in self.files)

    @property
    def bytes_to_read(self) -> int:
        """Total size of the changed files."""
        sizes = (
            file.record.stamp.size
            for file in self.files
            if not file.unchanged and file.record.stamp
        )
        return sum(sizes)


def diff_sources(
    sources: tuple[Source, ...],
    old: Manifest | None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> SourceChanges:
    """Compare the sources with an index.

    Args:
        sources: to index.
        old: the index; None if there is none to reuse.
        check_cancelled: called often; may raise.

    Raises:
        UsageError: a source does not exist, and the index has no files of it.
    """
    old_records = {file.path: file for file in old.files} if old else {}
    planned: dict[str, PlannedFile] = {}
    missing_sources = []
    stamps_changed = False
    for source in sources:
        try:
            for file in find_files(source, check_cancelled):
                if file.path not in planned:
                    record = old_records.get(file.path)
                    scanned_ns = old.scanned_ns if old else 0
                    planned[file.path] = _plan_file(file, record, scanned_ns, check_cancelled)
                    stamps_changed |= planned[file.path].record != record
        except (OSError, ValueError) as error:  # ValueError: the path has invalid characters
            old_files = dict(_old_files_below(source, old_records))
            if not old_files:
                reason = getattr(error, "strerror", error)
                raise UsageError(
                    f"{source.path} cannot be read: {reason}.", hint="Check the path."
                ) from error
            missing_sources.append(source.path)
            planned |= old_files
    files_removed = len(old_records.keys() - planned.keys())
    return SourceChanges(
        tuple(planned.values()), files_removed, tuple(missing_sources), stamps_changed
    )


def _old_files_below(
    source: Source, old_records: Mapping[str, FileRecord]
) -> Iterator[tuple[str, PlannedFile]]:
    for path, file_record in old_records.items():
        if path == source.path or path.startswith(source.path.rstrip(os.sep) + os.sep):
            yield path, PlannedFile(file_record, unchanged=True)


def _plan_file(
    source_file: SourceFile,
    record: FileRecord | None,
    scanned_ns: int,
    check_cancelled: Callable[[], None],
) -> PlannedFile:
    if source_file.stamp is None:
        problems = (Problem("", source_file.problem),)
        new = FileRecord(source_file.path, source_file.source, None, "", problems=problems)
        return PlannedFile(new, unchanged=record is not None and record.problems == problems)
    settled = source_file.stamp.mtime_ns < scanned_ns - _MTIME_RESOLUTION_NS
    if record and record.sha256 and record.stamp == source_file.stamp and settled:
        return PlannedFile(record, unchanged=True)
    try:
        sha256 = _hash_file(Path(source_file.path), check_cancelled)
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


_HASH_BLOCK_BYTES = 2**20


def _hash_file(path: Path, check_cancelled: Callable[[], None]) -> str:
    """Return the SHA-256 hash of a file, in hex."""
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            check_cancelled()
            hashed.update(block)
    return hashed.hexdigest()
