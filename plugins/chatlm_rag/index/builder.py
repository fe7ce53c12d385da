"""Build and update indices: read, chunk and embed only what has changed.

If the process dies, the old index stays intact and the next run reuses the vectors computed so far.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chatlm import ProgressReporter, UsageError, human_bytes
from chatlm_rag.documents.files import Source
from chatlm_rag.index import checkpoint, folder, manifest
from chatlm_rag.index.chunks import Chunking, ChunkReader
from chatlm_rag.index.embedding import (
    DEFAULT_EMBEDDER,
    Embedder,
    LocalEmbedder,
    fetch_embedder,
    find_index_embedder,
)
from chatlm_rag.index.folder import IndexFolder
from chatlm_rag.index.manifest import BuildPlan, Manifest
from chatlm_rag.index.writer import BuildStopped, check_cancelled, write_index


@dataclass(frozen=True)
class BuildResult:
    """The result of a build or an update."""

    manifest: Manifest
    """The current index."""
    changed: bool
    """Whether a new index was written."""
    files_read: int
    """Number of new or changed files."""
    files_removed: int
    """Number of files that are no longer in the index."""
    embedded: int
    """Number of chunks that were embedded."""
    missing_sources: tuple[str, ...] = ()
    """Sources that do not exist at the moment; their chunks stay in the index."""

    def to_dict(self) -> dict[str, Any]:
        """Convert all but the manifest to JSON values."""
        return {
            "changed": self.changed,
            "read": self.files_read,
            "gone": self.files_removed,
            "embedded": self.embedded,
            "missing": list(self.missing_sources),
        }


def build(
    name: str,
    sources: tuple[Source, ...],
    work: ProgressReporter,
    *,
    embedder: str = DEFAULT_EMBEDDER,
    chunking: Chunking | None = None,
    cut_to: int = 0,
) -> BuildResult:
    """Build a new index, or continue a build that was stopped.

    Args:
        name: of the index.
        sources: files and folders to index.
        work: receives the progress in bytes of the files to read; may cancel.
        embedder: name of the embedding model, downloaded if missing.
        chunking: chunk size; None for the default.
        cut_to: size to which vectors are cut (Matryoshka); 0 for the whole.

    Raises:
        UsageError: the name is taken or invalid, a source does not exist, or none of them contains
            text.
        BuildStopped: the user stopped it.
        ChatlmError: the embedder is unavailable, or the disk is full.
    """
    index = folder.user_index(name)
    if index.current():
        raise UsageError(
            f"The index {name} already exists.",
            hint=f"Update it: chatlm rag update {name}\nOr delete it: chatlm rag remove {name}",
        )
    with _hold_lock(index):
        plan = BuildPlan(sources, embedder, chunking or Chunking(), cut_to=cut_to)
        return _build(index, plan, work)


def add(name: str, sources: tuple[Source, ...], work: ProgressReporter) -> BuildResult:
    """Add sources to an index and update it; a source with the same path is replaced.

    Raises:
        ChatlmError: as `build`.
    """
    index = folder.find_index(name)
    with _hold_lock(index):
        plan = _current_plan(index)
        others = (source for source in plan.sources if source.path not in {s.path for s in sources})
        return _build(index, replace(plan, sources=(*others, *sources)), work)


def update(name: str, work: ProgressReporter) -> BuildResult:
    """Update an index to its sources' current state, or continue a build that was stopped.

    Raises:
        ChatlmError: as `build`.
    """
    index = folder.find_index(name)
    with _hold_lock(index):
        return _build(index, _current_plan(index), work)


def rebuild(
    name: str,
    work: ProgressReporter,
    *,
    embedder: str | None = None,
    chunking: Chunking | None = None,
    cut_to: int = 0,
) -> BuildResult:
    """Rebuild an index from its sources without reusing chunks.

    Args:
        name: of the index.
        work: receives the progress; may cancel.
        embedder: name of a new embedding model; None keeps the current one.
        chunking: new chunk size; None keeps the current one.
        cut_to: size to which the new embedder's vectors are cut; 0 for the whole.

    Raises:
        ChatlmError: as `build`.
    """
    index = folder.find_index(name)
    with _hold_lock(index):
        plan = _current_plan(index)
        new = BuildPlan(
            plan.sources,
            embedder or plan.embedder,
            chunking or plan.chunking,
            from_scratch=True,
            cut_to=cut_to if embedder else plan.cut_to,
        )
        return _build(index, new, work)


@dataclass(frozen=True)
class EmbeddingCost:
    """What it takes to embed an index with another embedder."""

    embedder: str
    passages: int
    seconds: float
    """Estimated from a sample."""
    bytes: int
    """Size of the vectors."""

    def describe(self) -> str:
        """Describe it in a sentence or two."""
        return (
            f"Embedding {self.passages:,} passages with {self.embedder} takes about "
            f"{_describe_duration(self.seconds)} and {human_bytes(self.bytes)}. The index stays as "
            "it is until then, also if you stop."
        )


def _describe_duration(seconds: float) -> str:
    if seconds < 100:
        return f"{max(round(seconds), 1)} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def estimate_cost(
    name: str, embedder: str, work: ProgressReporter, cut_to: int = 0
) -> EmbeddingCost | None:
    """Estimate what it takes to embed an index with another embedder, by embedding a sample.

    Args:
        name: of the index.
        embedder: name of the new embedding model, downloaded if missing.
        work: receives the progress; may cancel.
        cut_to: size to which vectors are cut (Matryoshka); 0 for the whole.

    Returns:
        None if the index uses this embedder already, or is not complete.

    Raises:
        ChatlmError: the index is damaged, or the embedder is unavailable.
    """
    index = folder.find_index(name)
    local = fetch_embedder(embedder, work, cut_to)
    if index.current() is None or index.open(manifest.read).embedder == local.record:
        return None

    def read_sample(version: Path) -> tuple[list[str], int]:
        chunks = ChunkReader(version)
        step = max(len(chunks) // _COST_SAMPLE, 1)
        places = range(0, len(chunks), step)[:_COST_SAMPLE]
        return [chunks[place].indexed_text for place in places], len(chunks)

    with folder.wrap_read_errors(name):
        texts, passages = index.open(read_sample)
    work.update(0, None, "estimating the time")
    model = Embedder(local.folder, local.record)
    model.embed(texts[:1])  # loads it
    start = time.perf_counter()
    vectors = model.embed(texts)
    seconds = (time.perf_counter() - start) * passages / len(texts)
    return EmbeddingCost(local.record.name, passages, seconds, passages * vectors.shape[1] * 4)


_COST_SAMPLE = 32
"""Passages that are embedded for an estimate: a second or two."""


def change_embedder(
    name: str, work: ProgressReporter, embedder: str, cut_to: int = 0
) -> BuildResult:
    """Embed an index with another embedder, or keep the current one after a change was stopped.

    The current version stays in use until the new one is complete.

    Args:
        name: of the index.
        work: receives the progress; may cancel, and `update` then continues.
        embedder: name of the embedding model, downloaded if missing.
        cut_to: size to which vectors are cut (Matryoshka); 0 for the whole.

    Raises:
        ChatlmError: as `build`.
    """
    index = folder.find_index(name)
    embedder = fetch_embedder(embedder, work, cut_to).record.name
    with _hold_lock(index):
        plan = replace(_current_plan(index), embedder=embedder, cut_to=cut_to)
        if index.current() and index.open(manifest.read).plan == plan:
            index.delete_partial()
        return _build(index, plan, work)


def _current_plan(index: IndexFolder) -> BuildPlan:
    """Return the plan of an unfinished build, else that of the current index."""
    return checkpoint.read_plan(index.partial) or index.open(manifest.read).plan


@contextmanager
def _hold_lock(index: IndexFolder) -> Iterator[None]:
    """Hold the index's lock; a stop is reported with the command that continues the build."""
    try:
        with index.lock():
            yield
    except (KeyboardInterrupt, BuildStopped) as error:
        has_vectors = any(index.partial.glob("*.npy"))
        raise BuildStopped(
            "Stopped; the vectors computed so far are saved." if has_vectors else "Stopped.",
            hint=f"Continue: chatlm rag update {index.name}" if index.partial.is_dir() else "",
        ) from error
    except OSError as error:
        raise folder.disk_error(error, index.name) from error


def _build(index: IndexFolder, plan: BuildPlan, work: ProgressReporter) -> BuildResult:
    scanned_ns = time.time_ns()
    old = _reusable_manifest(index, plan)
    work.update(0, None, "looking for changes")
    changes = manifest.diff_sources(plan.sources, old, lambda: check_cancelled(work))
    if old and changes.is_empty and plan == old.plan:
        index.delete_partial()
        if changes.stamps_changed:
            files = tuple(file.record for file in changes.files)
            index.open(
                lambda at: manifest.write(at, replace(old, files=files, scanned_ns=scanned_ns))
            )
        return BuildResult(old, False, 0, 0, 0, changes.missing_sources)
    embedder = (
        find_index_embedder(index.name, old.embedder)
        if old
        else fetch_embedder(plan.embedder, work, plan.cut_to)
    )
    _check_length(embedder, plan.chunking)
    checkpoint.write_plan(index.partial, plan, embedder.record)
    try:
        written = write_index(index, embedder, plan.chunking, changes.files, work, old)
    except UsageError:
        if not index.current():
            index.remove()
        raise
    new = Manifest(
        embedder.record, written.dimension, plan.chunking, plan.sources, written.files, scanned_ns
    )
    manifest.write(written.folder, new)
    index.commit()
    return BuildResult(
        new,
        changed=True,
        files_read=sum(not file.unchanged for file in changes.files),
        files_removed=changes.files_removed,
        embedded=written.embedded,
        missing_sources=changes.missing_sources,
    )


def _reusable_manifest(index: IndexFolder, plan: BuildPlan) -> Manifest | None:
    """Return the current manifest if its chunks and vectors can be reused."""
    if plan.from_scratch or not index.current():
        return None
    old = index.open(manifest.read)
    same = (old.embedder.name, old.embedder.cut_to, old.chunking) == (
        plan.embedder,
        plan.cut_to,
        plan.chunking,
    )
    return old if same else None


def _check_length(embedder: LocalEmbedder, chunking: Chunking) -> None:
    """Check that an embedder reads whole passages.

    Raises:
        UsageError: it would cut them off.
    """
    limit = embedder.token_limit
    if limit is not None and chunking.tokens > limit - 2:  # two special tokens
        raise UsageError(
            f"{embedder.record.name} reads {limit:,} tokens at most, so it would not see the end "
            f"of passages of {chunking.tokens:,} tokens.",
            hint=f"Choose shorter ones, such as --tokens {limit * 3 // 4}, or another embedder.",
        )
