"""Split documents into chunks, and store chunks as JSON lines.

The text of a chunk is exactly `document.text[start:end]`, within one section; one that continues a
table also has the table's header. `offsets.npy` has the
offset of each line, so that an index of a million chunks opens without reading them.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, overload

from chatlm import UsageError
from chatlm_rag.documents.tables import find_tables
from chatlm_rag.index.folder import load_mmap, wrap_read_errors
from chatlm_rag.json_fields import get_int, get_str

if TYPE_CHECKING:
    from types import TracebackType

    from chatlm_rag.documents.document import Document, Section


_MAX_CHARS_PER_TOKEN = 8
"""Limit for the average length of a token, which bounds a chunk without spaces."""


_CHARS_PER_TOKEN = 3
"""Estimate of the length of a token in a table's header."""


_MAX_SPLIT_CHARS = 50_000
"""Characters that are split at a time."""


_UNBROKEN = re.compile(r"[^\s.!?,;:。！？，、；：…]{2000}")
"""Text without a boundary, such as some Chinese, in which the time to split grows quadratically."""


_SLACK = 1.1
"""How much longer than the average a chunk may be in order to end at a boundary of the text."""


@dataclass(frozen=True)
class Chunking:
    """Chunk size and overlap in tokens of the embedder."""

    tokens: int = 200
    """Limit for a chunk. The default and a title fit the 256 tokens of all-minilm-l6-v2."""
    overlap: int = 40
    """Limit for the tokens that two neighbouring chunks share."""

    def __post_init__(self) -> None:
        if not 16 <= self.tokens <= 8000:
            raise UsageError("A passage must have 16 to 8000 tokens.")
        if not 0 <= self.overlap <= self.tokens // 2:
            raise UsageError("The overlap must be 0 to half the tokens of a passage.")

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "tokens": self.tokens,
            "overlap": self.overlap,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Chunking:
        """Read the result of `to_dict`.

        Raises:
            KeyError, TypeError: a value is missing or has the wrong type.
        """
        return cls(
            tokens=get_int(values, "tokens"),
            overlap=get_int(values, "overlap"),
        )


class Chunker:
    """Splitter of documents into chunks of about equal length that end at text boundaries.

    Args:
        tokenizer: the embedder's `tokenizer.json`.
        chunking: chunk size.
    """

    def __init__(self, tokenizer: Path, chunking: Chunking) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._chunking = chunking
        self._max_chars = chunking.tokens * _MAX_CHARS_PER_TOKEN

    def split(self, document: Document, first_id: int) -> Iterator[Chunk]:
        """Yield the chunks of a document in order, without those that have no letter or digit.

        Args:
            document: to split.
            first_id: id of the first chunk.
        """
        number = first_id
        tables = _Tables(document.text)
        for section in document.sections:
            for start, end in self._section_spans(document, section, tables):
                text = document.text[start:end]
                if any(map(str.isalnum, text)):
                    line = document.line_at(start)
                    yield Chunk(
                        number, text, document.source, section.place, start, end,
                        section.title, line, tables.header_above(start),
                    )  # fmt: skip
                    number += 1

    def _section_spans(
        self, document: Document, section: Section, tables: _Tables
    ) -> Iterator[tuple[int, int]]:
        for start, end in _windows(document.text, section.start, section.end):
            token_starts = self._token_starts(document.text, start, end)
            yield from self._split_span(document, start, end, token_starts, tables)

    def _token_starts(self, text: str, start: int, end: int) -> list[int]:
        """Return the offset of each token in a part of the text."""
        encoding = self._tokenizer.encode(text[start:end], add_special_tokens=False)
        return [start + offset for offset, _ in encoding.offsets]

    def _split_span(
        self, document: Document, start: int, end: int, token_starts: list[int], tables: _Tables
    ) -> Iterator[tuple[int, int]]:
        """Yield the span if it is short enough, else parts of it of about equal length."""
        text = document.text[start:end]
        tokens = bisect_left(token_starts, end) - bisect_left(token_starts, start)
        # the header goes with each part of a table, but must not take more than half of it
        header = min(
            len(tables.header_above(start)) // _CHARS_PER_TOKEN, self._chunking.tokens // 2
        )
        fullness = max(tokens / (self._chunking.tokens - header), len(text) / self._max_chars)
        if fullness <= 1:
            start += len(text) - len(text.lstrip())
            yield start, start + len(text.strip())
            return
        overlap_share = self._chunking.overlap / self._chunking.tokens
        parts = max(ceil((fullness * _SLACK - overlap_share) / (1 - overlap_share)), 2)
        chars = ceil(len(text) * _SLACK / (parts * (1 - overlap_share) + overlap_share))
        overlap = int(chars * overlap_share)
        from semantic_text_splitter import MarkdownSplitter, TextSplitter

        splitter = MarkdownSplitter if document.markdown else TextSplitter
        for offset, part in splitter(chars, overlap).chunk_indices(text):
            yield from self._split_span(
                document, start + offset, start + offset + len(part), token_starts, tables
            )


class _Tables:
    """The tables of a document, and which header stands above a place in one."""

    def __init__(self, text: str) -> None:
        self._bodies = list(find_tables(text))
        self._ends = [body.end for body in self._bodies]

    def header_above(self, start: int) -> str:
        """Return the header of the table whose rows begin at or before a place; else nothing."""
        at = bisect_right(self._ends, start)
        inside = at < len(self._bodies) and self._bodies[at].start <= start
        return self._bodies[at].header if inside else ""


def _windows(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield windows short enough to split, which end at a line break if possible."""
    while start < end:
        stop = min(end, start + _MAX_SPLIT_CHARS)
        if stop < end:
            stop = text.rfind("\n", start, stop) + 1 or stop
        if unbroken := _UNBROKEN.search(text, start, stop):
            stop = unbroken.end()
        yield start, stop
        start = stop


CHUNKS_FILE = "passages.jsonl"


OFFSETS_FILE = "offsets.npy"


@dataclass(frozen=True)
class Chunk:
    """One chunk of a document, verbatim."""

    id: int
    """Position in the index, from 0."""
    text: str
    source: str
    """Path of the file relative to the source's parent folder, or the id in a corpus."""
    place: str
    """The headings above it, joined by ` > `, or the page; may be empty."""
    start: int
    """Offset of its first character in the document's extracted text."""
    end: int
    """Offset after its last character."""
    title: str = ""
    """The headings above it, or the title in a corpus; indexed with the text."""
    line: int = 0
    """Line of the file on which it starts, from 1; 0 if the file has no lines, like a PDF."""
    header: str = ""
    """Header of the table that the chunk continues, in Markdown; else empty."""

    @property
    def shown_text(self) -> str:
        """The text, below the header of the table that it continues."""
        return f"{self.header}\n{self.text}" if self.header else self.text

    @property
    def indexed_text(self) -> str:
        """The text that is embedded and searched for words: the title, then the shown text."""
        return f"{self.title}\n{self.shown_text}" if self.title else self.shown_text

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "id": self.id,
            "text": self.text,
            "source": self.source,
            "place": self.place,
            "start": self.start,
            "end": self.end,
            "title": self.title,
            "line": self.line,
            "header": self.header,
        }

    def to_line(self) -> dict[str, Any]:
        """Convert to the JSON values of a line of `CHUNKS_FILE`; the line number is the id."""
        return {key: value for key, value in self.to_dict().items() if key != "id"}

    @classmethod
    def from_line(cls, values: Mapping[str, Any], chunk_id: int) -> Chunk:
        """Read the result of `to_line`.

        Raises:
            KeyError, TypeError: a value is missing or has the wrong type.
        """
        return cls(
            id=chunk_id,
            text=get_str(values, "text"),
            source=get_str(values, "source"),
            place=get_str(values, "place"),
            start=get_int(values, "start"),
            end=get_int(values, "end"),
            title=get_str(values, "title", ""),
            line=get_int(values, "line", 0),
            header=get_str(values, "header", ""),
        )


class ChunkWriter:
    """Writer of the chunks of an index version; a context manager.

    Args:
        folder: an existing folder without chunks.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets = [0]
        self._file = (folder / CHUNKS_FILE).open("xb")

    def __enter__(self) -> ChunkWriter:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        if exc_type is None:
            import numpy as np

            np.save(self._folder / OFFSETS_FILE, np.array(self._offsets, dtype=np.uint64))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, chunk: Chunk) -> None:
        """Write the next chunk.

        Raises:
            ValueError: its id is not the number of chunks written so far.
        """
        if chunk.id != len(self):
            raise ValueError(f"chunk {chunk.id} comes after {len(self)} others")
        line = json.dumps(chunk.to_line(), ensure_ascii=False, separators=(",", ":"))
        self.add_line(line.encode() + b"\n")

    def add_line(self, line: bytes) -> None:
        """Write the next chunk as a line from `ChunkReader.raw_line`."""
        self._offsets.append(self._offsets[-1] + self._file.write(line))


class ChunkReader(Sequence[Chunk]):
    """The chunks of an index version, read from disk on access; thread-safe.

    Args:
        folder: the index version.

    Raises:
        OSError, ValueError: the files are missing or truncated.
    """

    def __init__(self, folder: Path) -> None:
        self._offsets = load_mmap(folder / OFFSETS_FILE)
        self._file = (folder / CHUNKS_FILE).open("rb")
        self._lock = Lock()
        self._index_name = folder.parent.name
        if (folder / CHUNKS_FILE).stat().st_size != int(self._offsets[-1]):
            self.close()
            raise ValueError(f"{folder / CHUNKS_FILE} does not have the size {OFFSETS_FILE} says")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> list[Chunk]: ...
    def __getitem__(self, index: int | slice) -> Chunk | list[Chunk]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        chunk_id = index + len(self) if index < 0 else index
        if not 0 <= chunk_id < len(self):
            raise IndexError(f"there is no chunk {index}")
        with wrap_read_errors(self._index_name):
            return Chunk.from_line(json.loads(self.raw_line(chunk_id)), chunk_id)

    def raw_line(self, chunk_id: int) -> bytes:
        """Return the line of a chunk, which does not include its id."""
        with wrap_read_errors(self._index_name):
            start, end = int(self._offsets[chunk_id]), int(self._offsets[chunk_id + 1])
            with self._lock:
                self._file.seek(start)
                return self._file.read(end - start)

    def __iter__(self) -> Iterator[Chunk]:
        for chunk_id in range(len(self)):
            yield self[chunk_id]
