"""Write a new version of an index: chunks, vectors and words, copied where they are unchanged."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from chatlm import ChatlmError, ProgressReporter, UsageError, one_line
from chatlm_rag.documents.document import Problem
from chatlm_rag.documents.reader_process import DocumentReader
from chatlm_rag.index.checkpoint import VectorCache, digest
from chatlm_rag.index.chunks import Chunk, Chunker, Chunking, ChunkReader, ChunkWriter
from chatlm_rag.index.embedding import LocalEmbedder
from chatlm_rag.index.folder import IndexFolder, wrap_read_errors
from chatlm_rag.index.manifest import FileRecord, Manifest, PlannedFile

if TYPE_CHECKING:
    from chatlm_rag.index.embedding import Embedder


EMBED_WINDOW = 128
"""Chunks that are embedded and then saved together: a few seconds of work."""


class BuildStopped(ChatlmError):
    """The user stopped a build, which can be continued."""

    exit_code = 130


def check_cancelled(work: ProgressReporter) -> None:
    """Do nothing unless the user stopped the build.

    Raises:
        BuildStopped: the user stopped it.
    """
    if work.cancelled:
        raise BuildStopped("Stopped.")


@dataclass(frozen=True)
class WrittenIndex:
    """A new index version that lacks only its manifest."""

    folder: Path
    files: tuple[FileRecord, ...]
    dimension: int
    """Size of a vector."""
    embedded: int
    """Number of chunks that were embedded."""


def write_index(
    index: IndexFolder,
    embedder: LocalEmbedder,
    chunking: Chunking,
    files: Iterable[PlannedFile],
    work: ProgressReporter,
    old: Manifest | None,
) -> WrittenIndex:
    """Write the chunks, vectors and words of a new version.

    Args:
        index: must be locked.
        embedder: embeds new chunks.
        chunking: chunk size.
        files: in the order of the new index.
        work: receives the progress; may cancel.
        old: manifest of the current version if its chunks and vectors can be reused.

    Raises:
        UsageError: no file contains text.
        BuildStopped: the user stopped it.
        ChatlmError: the current version is damaged.
    """
    from chatlm_rag.index import bm25, checksums, vectors

    folder = index.create_new()
    writer = IndexWriter(index, embedder, chunking, work, old)
    records = tuple(writer.write_chunks(list(files), folder))
    if not writer.rows:
        raise UsageError("There is nothing to index.", hint=_explain_problems(records))
    work.update(1, 1, "writing the index")
    matrix = writer.vector_cache.write(writer.rows, folder)
    vectors.write(folder, matrix)
    bm25.write(folder, [chunk.indexed_text for chunk in ChunkReader(folder)])
    _verify(index, folder)
    checksums.write(folder)
    return WrittenIndex(folder, records, matrix.shape[1], writer.embedded)


def _verify(index: IndexFolder, folder: Path) -> None:
    """Check that no file is truncated; not every library reports a full disk.

    Raises:
        OSError: one is.
    """
    from chatlm_rag.index import bm25

    try:
        VectorCache(index.partial, folder)
        bm25.load(folder)
    except (ValueError, EOFError) as error:
        raise OSError("a file is truncated; is the disk full?") from error


class IndexWriter:
    """Writer of the chunks of a new version; it finds or computes the vector of each.

    Args:
        index: must be locked.
        embedder: embeds new chunks.
        chunking: chunk size.
        work: receives the progress; may cancel.
        old: manifest of the current version if its chunks and vectors can be reused.
    """

    def __init__(
        self,
        index: IndexFolder,
        embedder: LocalEmbedder,
        chunking: Chunking,
        work: ProgressReporter,
        old: Manifest | None,
    ) -> None:
        from chatlm_rag.index import checksums

        old_folder = index.current() if old else None
        with wrap_read_errors(index.name):
            if old_folder:
                checksums.check(old_folder)
            self._old_chunks = ChunkReader(old_folder) if old_folder else None
            self.vector_cache = VectorCache(index.partial, old_folder)
            if old and self.vector_cache.old_shape != (old.chunk_count, old.dimension):
                raise ValueError("the numbers of passages and vectors differ")
        self.rows = array("q")
        """The row of each chunk's vector in `vector_cache`."""
        self.embedded = 0
        self._reader = DocumentReader(lambda: check_cancelled(work))
        self._chunker = Chunker(embedder.tokenizer, chunking)
        self._queue = _EmbeddingQueue(self.vector_cache, embedder, work)

    def write_chunks(self, files: list[PlannedFile], folder: Path) -> Iterator[FileRecord]:
        """Write the chunks of all files and yield the record of each file."""
        self._queue.total_bytes = sum(_bytes_to_read(file) for file in files)
        with ChunkWriter(folder) as writer, self._reader:
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
        chunk_ids = range(record.first_chunk, record.first_chunk + record.chunk_count)
        if self._old_chunks:
            for chunk_id in chunk_ids:
                writer.add_line(self._old_chunks.raw_line(chunk_id))
        self.rows.extend(chunk_ids)

    def _chunk_file(self, record: FileRecord, writer: ChunkWriter) -> Iterator[Problem]:
        if record.problems:
            yield from record.problems
            return
        document_start = 0
        for document in self._reader.read(Path(record.path), record.source):
            if isinstance(document, Problem):
                yield document
                continue
            first = len(writer)
            for chunk in self._chunker.split(document, first):
                writer.add(chunk)
                position = (document.bytes_read - document_start) * chunk.end // len(document.text)
                passages = "1 passage" if len(writer) == 1 else f"{len(writer):,} passages"
                self._queue.report_position(
                    document_start + position, f"{record.source}, {passages}"
                )
                self.rows.append(self._queue.add(chunk))
            document_start = document.bytes_read
            if len(writer) == first:
                place = "" if document.source == record.source else document.source
                yield Problem(place, "has no words")


class _EmbeddingQueue:
    """Queue of chunks without a vector, embedded in windows of `EMBED_WINDOW`."""

    def __init__(
        self, vector_cache: VectorCache, embedder: LocalEmbedder, work: ProgressReporter
    ) -> None:
        self.total_bytes = 0
        """Total size of the files to read."""
        self.embedded = 0
        self._vector_cache = vector_cache
        self._local = embedder
        self._work = work
        self._embedder: Embedder | None = None
        self._pending: dict[bytes, tuple[int, str]] = {}
        self._finished_bytes = self._reported_bytes = self._position = 0
        self._note = ""

    def add(self, chunk: Chunk) -> int:
        """Return the row of the chunk's vector, which may be computed later."""
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
        """Report the position in the current file, in bytes.

        Raises:
            BuildStopped: the user stopped the build.
        """
        self._position = self._finished_bytes + position
        self._note = one_line(note, 60)
        if not self._pending:
            self._reported_bytes = self._position
            self._report(self._reported_bytes)
        else:
            check_cancelled(self._work)

    def finish_file(self, size: int) -> None:
        """Count a file as read."""
        self._finished_bytes += size

    def embed(self) -> None:
        """Embed the pending chunks and save their vectors."""
        if not self._pending:
            return
        if self._embedder is None:
            from chatlm_rag.index.embedding import Embedder

            self._work.update(self._reported_bytes, self.total_bytes, "loading the embedder")
            self._embedder = Embedder(self._local.folder, self._local.record)
        texts = [text for _, text in self._pending.values()]
        vectors = self._embedder.embed(texts, progress=self._report_embedded)
        self._vector_cache.add(list(self._pending), vectors)
        self.embedded += len(texts)
        self._pending = {}
        self._reported_bytes = self._position

    def _report_embedded(self, done: int, count: int) -> None:
        self._report(self._reported_bytes + (self._position - self._reported_bytes) * done // count)

    def _report(self, position: int) -> None:
        check_cancelled(self._work)
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
        return "The sources contain no files, or all of them are ignored."
    more = f"\nand {len(problems) - 5:,} more" if len(problems) > 5 else ""
    return "\n".join(problems[:5]) + more
