"""The pieces that documents are cut into, kept as lines of JSON and read one by one.

It does not know how they are cut, embedded or found. `offsets.npy` says where each line begins, so
that an index of a million pieces is opened without reading them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, overload

from chatlm_rag.arrays import mapped
from chatlm_rag.folder import reading
from chatlm_rag.records import record

if TYPE_CHECKING:
    from types import TracebackType

LINES = "passages.jsonl"
OFFSETS = "offsets.npy"


@dataclass(frozen=True)
class Piece:
    """One chunk of a document, exactly as it stands there."""

    id: int
    """Its place in the index, from 0."""
    text: str
    source: str
    """The file, by its path below the folder it was found in, or the id in a corpus."""
    place: str
    """Where in the document: the headings above it, joined by ` > `, or the page; may be empty."""
    start: int
    """Its first character in the document's extracted text."""
    end: int
    """One behind its last."""
    title: str = ""
    """What the headings above it or the corpus call it; searched with the text."""
    line: int = 0
    """The file's line it begins on, from 1; 0 where a file has no lines, as a PDF."""

    @property
    def indexed(self) -> str:
        """What is embedded and looked up by its words: the title, then the text."""
        return f"{self.title}\n{self.text}" if self.title else self.text

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "id": self.id,
            "text": self.text,
            "source": self.source,
            "place": self.place,
            "start": self.start,
            "end": self.end,
            "title": self.title,
            "line": self.line,
        }

    def to_line(self) -> dict[str, Any]:
        """As a line of `LINES` has it: without the id, which is its place."""
        return {key: value for key, value in self.to_dict().items() if key != "id"}

    @classmethod
    def from_line(cls, values: Mapping[str, Any], place: int) -> Piece:
        """Read back what `to_line` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return record(
            cls,
            id=place,
            text=values["text"],
            source=values["source"],
            place=values["place"],
            start=values["start"],
            end=values["end"],
            title=values.get("title", ""),
            line=values.get("line", 0),
        )


class Writer:
    """Writes pieces into a folder, one after the other; a context manager.

    Args:
        folder: there, and without pieces.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets = [0]
        self._file = (folder / LINES).open("xb")

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is None:
            import numpy as np

            np.save(self._folder / OFFSETS, np.array(self._offsets, dtype=np.uint64))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, piece: Piece) -> None:
        """Write the next piece; its id is the number of pieces before it."""
        if piece.id != len(self):
            raise ValueError(f"piece {piece.id} comes after {len(self)} others")
        table = piece.to_line()
        line = json.dumps(table, ensure_ascii=False, separators=(",", ":"))
        self.add_line(line.encode() + b"\n")

    def add_line(self, line: bytes) -> None:
        """Write the next piece as another index has it, see `Passages.line`."""
        self._offsets.append(self._offsets[-1] + self._file.write(line))


class Passages(Sequence[Piece]):
    """The pieces of a folder; each is read when it is asked for, in any thread.

    Args:
        folder: where a `Writer` wrote them.

    Raises:
        OSError, ValueError: they are not there, or cut short.
    """

    def __init__(self, folder: Path) -> None:
        self._offsets = mapped(folder / OFFSETS)
        self._file = (folder / LINES).open("rb")
        self._lock = Lock()
        self._name = folder.parent.name
        if (folder / LINES).stat().st_size != int(self._offsets[-1]):
            self.close()
            raise ValueError(f"{folder / LINES} is not as long as {OFFSETS} says")

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Piece: ...
    @overload
    def __getitem__(self, index: slice) -> list[Piece]: ...
    def __getitem__(self, index: int | slice) -> Piece | list[Piece]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"there is no piece {index}")
        with reading(self._name):
            return Piece.from_line(json.loads(self.line(place)), place)

    def line(self, place: int) -> bytes:
        """One piece as it is written, without its id, which is its place."""
        with reading(self._name):
            begin, end = int(self._offsets[place]), int(self._offsets[place + 1])
            with self._lock:
                self._file.seek(begin)
                return self._file.read(end - begin)

    def __iter__(self) -> Iterator[Piece]:
        for place in range(len(self)):
            yield self[place]


def write(folder: Path, pieces: Iterable[Piece]) -> None:
    """Write all pieces into a folder that has none."""
    with Writer(folder) as writer:
        for piece in pieces:
            writer.add(piece)
