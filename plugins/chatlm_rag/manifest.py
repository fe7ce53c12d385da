"""What an index says of itself: its embedder, its chunking, and each file it was made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chatlm import write_atomically
from chatlm_rag.chunking import Chunking
from chatlm_rag.embedders import EmbedderRecord
from chatlm_rag.folder import damaged
from chatlm_rag.sources.document import Problem
from chatlm_rag.sources.folders import Source, Stamp

FILE = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """What an index is to be made of, and how."""

    sources: tuple[Source, ...]
    embedder: str
    """As chatlm's models are called."""
    chunking: Chunking
    anew: bool = False
    """Whether nothing of the old index is to be taken."""


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
    first: int = 0
    """The id of its first passage."""
    count: int = 0
    """How many passages it has; they follow each other."""
    problems: tuple[Problem, ...] = ()
    """What of it is not in the index."""


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
    looked_ns: int
    """When its files were looked at, in nanoseconds since 1970."""

    @property
    def plan(self) -> Plan:
        """What made it."""
        return Plan(self.sources, self.embedder.name, self.chunking)

    @property
    def pieces(self) -> int:
        """How many passages there are."""
        return sum(file.count for file in self.files)

    @property
    def problems(self) -> Iterator[tuple[FileRecord, Problem]]:
        """What was left out."""
        return ((file, problem) for file in self.files for problem in file.problems)

    def file_of(self, piece: int) -> FileRecord:
        """The file that a passage is from, by the passage's id.

        Raises:
            IndexError: there is no such passage.
        """
        for file in self.files:
            if file.first <= piece < file.first + file.count:
                return file
        raise IndexError(f"there is no passage {piece}")


def write(folder: Path, manifest: Manifest) -> None:
    """Put the manifest into an index's folder, in place of the one that is there."""
    table = {"format": FORMAT, **asdict(manifest)}
    write_atomically(folder / FILE, [json.dumps(table, indent=1) + "\n"])


def read(folder: Path) -> Manifest:
    """The manifest of an index's folder.

    Raises:
        FileNotFoundError: there is none.
        ChatlmError: it is damaged, or of another version of chatlm.
    """
    text = (folder / FILE).read_text(encoding="utf-8")
    name = folder.parent.name
    try:
        table = json.loads(text)
        number = table.pop("format")
        if number == FORMAT:
            return _manifest(table)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(name, f"{FILE} is not what it was") from error
    raise damaged(name, f"it has the format {number}, and this chatlm reads {FORMAT}")


def plan_table(plan: Plan) -> dict[str, Any]:
    """A plan as plain values."""
    return asdict(plan)


def plan_from(table: dict[str, Any]) -> Plan:
    """The plan in plain values.

    Raises:
        KeyError, TypeError: they are no plan.
    """
    chunking = Chunking(**table["chunking"])
    return Plan(_sources(table["sources"]), table["embedder"], chunking, table["anew"])


def _manifest(table: dict[str, Any]) -> Manifest:
    return Manifest(
        embedder=EmbedderRecord(**table["embedder"]),
        dimension=table["dimension"],
        chunking=Chunking(**table["chunking"]),
        sources=_sources(table["sources"]),
        files=tuple(map(_file, table["files"])),
        looked_ns=table["looked_ns"],
    )


def _sources(tables: list[dict[str, Any]]) -> tuple[Source, ...]:
    return tuple(
        Source(table["path"], tuple(table["include"]), tuple(table["exclude"])) for table in tables
    )


def _file(table: dict[str, Any]) -> FileRecord:
    stamp = Stamp(**table["stamp"]) if table["stamp"] else None
    problems = tuple(Problem(**problem) for problem in table["problems"])
    return FileRecord(**{**table, "stamp": stamp, "problems": problems})
