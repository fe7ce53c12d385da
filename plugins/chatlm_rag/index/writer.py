"""Fills an index's new folder: passages from the old index or from files, and their vectors."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from chatlm import ChatlmError, ProgressReporter, UsageError, one_line
from chatlm_rag.documents.document import Problem
from chatlm_rag.documents.reader import read_documents
from chatlm_rag.index.checkpoint import VectorCache, digest
from chatlm_rag.index.chunks import Chunk, Chunker, Chunking, ChunkReader, ChunkWriter
from chatlm_rag.index.embedding import LocalEmbedder
from chatlm_rag.index.folder import IndexFolder, wrap_read_errors
from chatlm_rag.index.manifest import FileRecord, Manifest, PlannedFile

if TYPE_CHECKING:
    from chatlm_rag.index.embedding import Embedder


EMBED_WINDOW = 128
"""Passages that are embedded together and then kept for good: a few seconds of work."""


class BuildStopped(ChatlmError):
    """The person stopped a build, which can go on later."""

    exit_code = 130


@dataclass(frozen=True)
class WrittenIndex:
    """A folder that lacks only its manifest."""

    folder: Path
    files: tuple[FileRecord, ...]
    dimension: int
    """The length of a vector."""
    embedded: int
    """How many vectors had to be made."""


def write_index(
    index: IndexFolder,
    embedder: LocalEmbedder,
    chunking: Chunking,
    files: Iterable[PlannedFile],
    work: ProgressReporter,
    old: Manifest | None,
) -> WrittenIndex:
    """Write passages, vectors and words into the folder that is to count next.

    Args:
        index: call it while `writing`.
        embedder: the embedder.
        chunking: how long passages are.
        files: in the order of the new index.
        work: is shown how far it is, and may stop it.
        old: the index as it is, where passages and vectors are taken from it.

    Raises:
        UsageError: there is no passage in any file.
        BuildStopped: the person stopped it.
        ChatlmError: the index as it is is damaged.
    """
    from chatlm_rag.index import bm25, vectors

    folder = index.create_new()
    filling = IndexWriter(index, embedder, chunking, work, old)
    records = tuple(filling.write_chunks(list(files), folder))
    if not filling.rows:
        raise UsageError("There is nothing to index.", hint=_explain_problems(records))
    work.update(1, 1, "writing the index")
    matrix = filling.vector_cache.write(filling.rows, folder)
    vectors.write(folder, matrix)
    bm25.write(folder, [piece.indexed_text for piece in ChunkReader(folder)])
    _verify(index, folder)
    return WrittenIndex(folder, records, matrix.shape[1], filling.embedded)


def _verify(index: IndexFolder, folder: Path) -> None:
    """See that no file was cut short, which not every library tells.

    Raises:
        OSError: one was.
    """
    from chatlm_rag.index import bm25

    try:
        VectorCache(index.partial, folder)
        bm25.load(folder)
    except (ValueError, EOFError) as error:
        raise OSError("a file was cut short; is the disk full?") from error


class IndexWriter:
    """The state of one run."""

    def __init__(
        self,
        index: IndexFolder,
        embedder: LocalEmbedder,
        chunking: Chunking,
        work: ProgressReporter,
        old: Manifest | None,
    ) -> None:
        at = index.current() if old else None
        with wrap_read_errors(index.name):
            self._old_chunks = ChunkReader(at) if at else None
            self.vector_cache = VectorCache(index.partial, at)
            if old and self.vector_cache.old_shape != (old.chunk_count, old.dimension):
                raise ValueError("it has not a vector for each passage")
        self.rows = array("q")
        """The row in `known` of each passage."""
        self.embedded = 0
        self._chunker = Chunker(embedder.tokenizer, chunking)
        self._queue = _EmbeddingQueue(self.vector_cache, embedder.folder, work)

    def write_chunks(self, files: list[PlannedFile], folder: Path) -> Iterator[FileRecord]:
        """Write the passages of all files; their records as they are then."""
        self._queue.total_bytes = sum(_bytes_to_read(file) for file in files)
        with ChunkWriter(folder) as writer:
            for file in files:
                first = len(writer)
                if file.unchanged:
                    self._copy_chunks(file.record, writer)
                    yield replace(file.record, first_chunk=first)
                else:
                    problems = tuple(self._chunk_file(file.record, writer))
                    yield replace(
                        file.record,
                        first_chunk=first,
                        chunk_count=len(writer) - first,
                        problems=problems,
                    )
                    self._queue.finish_file(_bytes_to_read(file))
            self._queue.embed()
        self.embedded = self._queue.embedded

    def _copy_chunks(self, record: FileRecord, writer: ChunkWriter) -> None:
        ids = range(record.first_chunk, record.first_chunk + record.chunk_count)
        if self._old_chunks:
            for number in ids:
                writer.add_line(self._old_chunks.raw_line(number))
        self.rows.extend(ids)

    def _chunk_file(self, record: FileRecord, writer: ChunkWriter) -> Iterator[Problem]:
        if record.problems:
            yield from record.problems
            return
        begin = 0
        for document in read_documents(Path(record.path), record.source):
            if isinstance(document, Problem):
                yield document
                continue
            first = len(writer)
            for piece in self._chunker.split(document, first):
                writer.add(piece)
                part = (document.bytes_read - begin) * piece.end // len(document.text)
                self._queue.report_position(
                    begin + part, f"{record.source}, {len(writer):,} passages"
                )
                self.rows.append(self._queue.add(piece))
            begin = document.bytes_read
            if len(writer) == first:
                place = "" if document.source == record.source else document.source
                yield Problem(place, "has no words")


class _EmbeddingQueue:
    """Passages whose vectors are not known yet, embedded a window at a time."""

    def __init__(
        self, vector_cache: VectorCache, embedder_folder: Path, work: ProgressReporter
    ) -> None:
        self.total_bytes = 0
        """Bytes of the files that are read."""
        self.embedded = 0
        self._vector_cache = vector_cache
        self._embedder_folder = embedder_folder
        self._work = work
        self._embedder: Embedder | None = None
        self._pending: dict[bytes, tuple[int, str]] = {}
        self._finished_bytes = self._reported_bytes = self._position = 0
        self._note = ""

    def add(self, chunk: Chunk) -> int:
        """The row that the passage's vector has, or will have."""
        key = digest(chunk.indexed_text)
        row = self._vector_cache.find_row(key)
        if row is not None:
            return row
        if key not in self._pending:
            self._pending[key] = (len(self._vector_cache) + len(self._pending), chunk.indexed_text)
        row = self._pending[key][0]
        if len(self._pending) == EMBED_WINDOW:
            self.embed()
        return row

    def report_position(self, position: int, note: str) -> None:
        """Say how far the file is read, and what it is."""
        self._position = self._finished_bytes + position
        self._note = one_line(note, 60)
        if not self._pending:
            self._reported_bytes = self._position
            self._report(self._reported_bytes)
        elif self._work.cancelled:
            raise BuildStopped("Stopped.")

    def finish_file(self, size: int) -> None:
        """The file is read."""
        self._finished_bytes += size

    def embed(self) -> None:
        """Embed what waits, and keep it."""
        if not self._pending:
            return
        if self._embedder is None:
            from chatlm_rag.index.embedding import Embedder

            self._work.update(self._reported_bytes, self.total_bytes, "loading the embedder")
            self._embedder = Embedder(self._embedder_folder)
        texts = [text for _, text in self._pending.values()]
        vectors = self._embedder.embed(texts, progress=self._report_embedded)
        self._vector_cache.add(list(self._pending), vectors)
        self.embedded += len(texts)
        self._pending = {}
        self._reported_bytes = self._position

    def _report_embedded(self, done: int, count: int) -> None:
        self._report(self._reported_bytes + (self._position - self._reported_bytes) * done // count)

    def _report(self, position: int) -> None:
        if self._work.cancelled:
            raise BuildStopped("Stopped.")
        self._work.update(position, self.total_bytes, self._note)


def _bytes_to_read(file: PlannedFile) -> int:
    return file.record.stamp.size if file.record.stamp and not file.unchanged else 0


def _explain_problems(records: Iterable[FileRecord]) -> str:
    problems = [
        f"{one_line(record.source, 100)} {problem.reason}"
        for record in records
        for problem in record.problems
    ]
    if not problems:
        return "The sources have no files, or all of them are ignored."
    more = f"\nand {len(problems) - 5:,} more" if len(problems) > 5 else ""
    return "\n".join(problems[:5]) + more
