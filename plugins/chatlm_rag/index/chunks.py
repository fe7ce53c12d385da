"""Chunker; chunks as JSON lines with offsets.

It does not know where the document came from. A passage never reaches out of its section, and its
text is exactly `document.text[start:end]`.

It does not know how they are cut, embedded or found. `offsets.npy` says where each line begins, so
that an index of a million pieces is opened without reading them.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, overload

from chatlm import UsageError
from chatlm_rag.index.folder import load_mmap, wrap_read_errors
from chatlm_rag.json_fields import get_int, get_str

if TYPE_CHECKING:
    from types import TracebackType

    from chatlm_rag.documents.document import Document, Section


_MAX_CHARS_PER_TOKEN = 8
"""Characters a token may stand for on average; no passage of one endless word has more."""


_MAX_SPLIT_CHARS = 50_000
"""Characters that are cut at once, those of a long chapter: where a text has no joints the time
grows with the square of them."""


_SLACK = 1.1
"""How much longer than the average part one may be that ends at a joint of the text."""


@dataclass(frozen=True)
class Chunking:
    """How long passages are, in the embedder's tokens."""

    tokens: int = 200
    """At most. The default leaves room for the title in the 256 that all-minilm-l6-v2 reads."""
    overlap: int = 40
    """At most so many tokens of a passage are repeated in the next one."""

    def __post_init__(self) -> None:
        if not 16 <= self.tokens <= 8000:
            raise UsageError("A passage may have 16 to 8000 tokens.")
        if not 0 <= self.overlap <= self.tokens // 2:
            raise UsageError("The overlap may be 0 to half of a passage's tokens.")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "tokens": self.tokens,
            "overlap": self.overlap,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Chunking:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            tokens=get_int(values, "tokens"),
            overlap=get_int(values, "overlap"),
        )


class Chunker:
    """Cuts documents.

    Args:
        tokenizer: the embedder's `tokenizer.json`.
        chunking: how long passages are.
    """

    def __init__(self, tokenizer: Path, chunking: Chunking) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._chunking = chunking
        self._max_chars = chunking.tokens * _MAX_CHARS_PER_TOKEN

    def split(self, document: Document, first_id: int) -> Iterator[Chunk]:
        """The passages of a document, in its order; those without a letter or digit are left out.

        Args:
            document: to cut.
            first_id: the id of the first one.
        """
        number = first_id
        for section in document.sections:
            for start, end in self._section_spans(document, section):
                text = document.text[start:end]
                if any(map(str.isalnum, text)):
                    line = document.line_at(start)
                    yield Chunk(
                        number, text, document.source, section.place, start, end,
                        section.title, line,
                    )  # fmt: skip
                    number += 1

    def _section_spans(self, document: Document, section: Section) -> Iterator[tuple[int, int]]:
        for start, end in _windows(document.text, section.start, section.end):
            begins = self._token_starts(document.text, start, end)
            yield from self._split_span(document, start, end, begins)

    def _token_starts(self, text: str, start: int, end: int) -> list[int]:
        """Where each token of a part of the text begins."""
        encoding = self._tokenizer.encode(text[start:end], add_special_tokens=False)
        return [start + begin for begin, _ in encoding.offsets]

    def _split_span(
        self, document: Document, start: int, end: int, token_starts: list[int]
    ) -> Iterator[tuple[int, int]]:
        """The span where it is short enough, else its parts of about the same length."""
        text = document.text[start:end]
        tokens = bisect_left(token_starts, end) - bisect_left(token_starts, start)
        full = max(tokens / self._chunking.tokens, len(text) / self._max_chars)
        if full <= 1:
            start += len(text) - len(text.lstrip())
            yield start, start + len(text.strip())
            return
        repeated = self._chunking.overlap / self._chunking.tokens
        parts = max(ceil((full * _SLACK - repeated) / (1 - repeated)), 2)
        letters = ceil(len(text) * _SLACK / (parts * (1 - repeated) + repeated))
        overlap = int(letters * repeated)
        from semantic_text_splitter import MarkdownSplitter, TextSplitter

        splitter = MarkdownSplitter if document.markdown else TextSplitter
        for begin, chunk in splitter(letters, overlap).chunk_indices(text):
            yield from self._split_span(
                document, start + begin, start + begin + len(chunk), token_starts
            )


def _windows(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A part of a text in stretches that can be cut at once, by lines where it has them."""
    while end - start > _MAX_SPLIT_CHARS:
        behind = text.rfind("\n", start, start + _MAX_SPLIT_CHARS) + 1 or start + _MAX_SPLIT_CHARS
        yield start, behind
        start = behind
    yield start, end


CHUNKS_FILE = "passages.jsonl"


OFFSETS_FILE = "offsets.npy"


@dataclass(frozen=True)
class Chunk:
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
    def indexed_text(self) -> str:
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
    def from_line(cls, values: Mapping[str, Any], place: int) -> Chunk:
        """Read back what `to_line` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            id=place,
            text=get_str(values, "text"),
            source=get_str(values, "source"),
            place=get_str(values, "place"),
            start=get_int(values, "start"),
            end=get_int(values, "end"),
            title=get_str(values, "title", ""),
            line=get_int(values, "line", 0),
        )


class ChunkWriter:
    """Writes pieces into a folder, one after the other; a context manager.

    Args:
        folder: there, and without pieces.
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
        """Write the next piece; its id is the number of pieces before it."""
        if chunk.id != len(self):
            raise ValueError(f"piece {chunk.id} comes after {len(self)} others")
        table = chunk.to_line()
        line = json.dumps(table, ensure_ascii=False, separators=(",", ":"))
        self.add_line(line.encode() + b"\n")

    def add_line(self, line: bytes) -> None:
        """Write the next piece as another index has it, see `Passages.line`."""
        self._offsets.append(self._offsets[-1] + self._file.write(line))


class ChunkReader(Sequence[Chunk]):
    """The pieces of a folder; each is read when it is asked for, in any thread.

    Args:
        folder: where a `Writer` wrote them.

    Raises:
        OSError, ValueError: they are not there, or cut short.
    """

    def __init__(self, folder: Path) -> None:
        self._offsets = load_mmap(folder / OFFSETS_FILE)
        self._file = (folder / CHUNKS_FILE).open("rb")
        self._lock = Lock()
        self._index_name = folder.parent.name
        if (folder / CHUNKS_FILE).stat().st_size != int(self._offsets[-1]):
            self.close()
            raise ValueError(f"{folder / CHUNKS_FILE} is not as long as {OFFSETS_FILE} says")

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> list[Chunk]: ...
    def __getitem__(self, index: int | slice) -> Chunk | list[Chunk]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"there is no piece {index}")
        with wrap_read_errors(self._index_name):
            return Chunk.from_line(json.loads(self.raw_line(place)), place)

    def raw_line(self, chunk_id: int) -> bytes:
        """One piece as it is written, without its id, which is its place."""
        with wrap_read_errors(self._index_name):
            begin, end = int(self._offsets[chunk_id]), int(self._offsets[chunk_id + 1])
            with self._lock:
                self._file.seek(begin)
                return self._file.read(end - begin)

    def __iter__(self) -> Iterator[Chunk]:
        for place in range(len(self)):
            yield self[place]


def write(folder: Path, chunks: Iterable[Chunk]) -> None:
    """Write all pieces into a folder that has none."""
    with ChunkWriter(folder) as writer:
        for piece in chunks:
            writer.add(piece)
