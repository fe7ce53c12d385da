"""Makes indices and brings them up to date: what changed is read, cut, embedded and written.

Any moment it dies, the old index stays whole and the next run goes on from the vectors that were
made. It does not know who watches the work.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from chatlm import ProgressReporter, UsageError
from chatlm_rag.documents.files import Source
from chatlm_rag.index import checkpoint, folder, manifest
from chatlm_rag.index import manifest as manifest_module
from chatlm_rag.index.chunks import Chunking
from chatlm_rag.index.embedding import DEFAULT_EMBEDDER, fetch_embedder, find_index_embedder
from chatlm_rag.index.folder import IndexFolder
from chatlm_rag.index.manifest import BuildPlan, Manifest
from chatlm_rag.index.writer import BuildStopped, write_index


@dataclass(frozen=True)
class BuildResult:
    """What a build or an update did."""

    manifest: Manifest
    """The index as it is now."""
    changed: bool
    """Whether it is another one than before."""
    files_read: int
    """Files that were read, new or changed."""
    files_removed: int
    """Files that are no longer in it."""
    embedded: int
    """Passages whose vectors had to be made."""
    missing_sources: tuple[str, ...] = ()
    """Sources that were not there; what was indexed of them stays."""

    def to_dict(self) -> dict[str, Any]:
        """What was done, as plain values, ready for JSON."""
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
) -> BuildResult:
    """Make a new index, or go on with one whose build was stopped.

    Args:
        name: of the index.
        sources: what it is made of.
        work: is shown how far it is, in bytes of the files that have to be read.
        embedder: fetched first if it is not here.
        chunking: how long passages are; None for the usual.

    Raises:
        UsageError: the name is taken or cannot be used, a source is not there, or nothing in them
            can be indexed.
        BuildStopped: the person stopped it.
        ChatlmError: the embedder cannot be had, or the disk is full.
    """
    index = folder.user_index(name)
    if index.current():
        raise UsageError(
            f"There is an index {name} already.",
            hint=f"Bring it up to date: chatlm rag update {name}\n"
            f"Or remove it: chatlm rag remove {name}",
        )
    with _hold_lock(index):
        return _build(index, BuildPlan(sources, embedder, chunking or Chunking()), work)


def add(name: str, sources: tuple[Source, ...], work: ProgressReporter) -> BuildResult:
    """Add sources to an index and bring it up to date; see `build`."""
    index = folder.find_index(name)
    with _hold_lock(index):
        plan = _current_plan(index)
        others = (source for source in plan.sources if source.path not in {s.path for s in sources})
        return _build(index, replace(plan, sources=(*others, *sources)), work)


def update(name: str, work: ProgressReporter) -> BuildResult:
    """Bring an index up to date, or go on with a build that was stopped; see `build`."""
    index = folder.find_index(name)
    with _hold_lock(index):
        return _build(index, _current_plan(index), work)


def rebuild(
    name: str,
    work: ProgressReporter,
    *,
    embedder: str | None = None,
    chunking: Chunking | None = None,
) -> BuildResult:
    """Read everything anew and replace an index by another made of the same sources; see `build`.

    Args:
        name: of the index.
        work: is shown how far it is.
        embedder: another one; None for that of the index.
        chunking: another one; None for that of the index.
    """
    index = folder.find_index(name)
    with _hold_lock(index):
        plan = _current_plan(index)
        new = BuildPlan(
            plan.sources, embedder or plan.embedder, chunking or plan.chunking, from_scratch=True
        )
        return _build(index, new, work)


def _current_plan(index: IndexFolder) -> BuildPlan:
    """What an unfinished build was to make, else what made the index."""
    return checkpoint.read_plan(index.partial) or index.open(manifest.read).plan


@contextmanager
def _hold_lock(index: IndexFolder) -> Iterator[None]:
    """Hold the index's lock, and say what is kept when the work is stopped."""
    try:
        with index.lock():
            yield
    except (KeyboardInterrupt, BuildStopped) as error:
        kept = any(index.partial.glob("*.npy"))
        raise BuildStopped(
            "Stopped; what was embedded is kept." if kept else "Stopped.",
            hint=f"Go on: chatlm rag update {index.name}" if index.partial.is_dir() else "",
        ) from error
    except OSError as error:
        raise folder.disk_error(error, index.name) from error


def _build(index: IndexFolder, plan: BuildPlan, work: ProgressReporter) -> BuildResult:
    looked_ns = time.time_ns()
    old = _reusable_manifest(index, plan)
    work.update(0, None, "looking for changes")
    found = manifest_module.diff_sources(plan.sources, old)
    if old and found.is_empty and plan == old.plan:
        index.delete_partial()
        if found.stamps_changed:
            files = tuple(file.record for file in found.files)
            index.open(
                lambda at: manifest.write(at, replace(old, files=files, scanned_ns=looked_ns))
            )
        return BuildResult(old, False, 0, 0, 0, found.missing_sources)
    place = (
        find_index_embedder(index.name, old.embedder)
        if old
        else fetch_embedder(plan.embedder, work)
    )
    checkpoint.write_plan(index.partial, plan, place.record)
    try:
        filled = write_index(index, place, plan.chunking, found.files, work, old)
    except UsageError:
        if not index.current():
            index.remove()
        raise
    new = Manifest(
        place.record, filled.dimension, plan.chunking, plan.sources, filled.files, looked_ns
    )
    manifest.write(filled.folder, new)
    index.commit()
    read = sum(not file.unchanged for file in found.files)
    return BuildResult(new, True, read, found.files_removed, filled.embedded, found.missing_sources)


def _reusable_manifest(index: IndexFolder, plan: BuildPlan) -> Manifest | None:
    """The old index, if passages and vectors can be taken from it."""
    if plan.from_scratch or not index.current():
        return None
    old = index.open(manifest.read)
    same = (old.embedder.name, old.chunking) == (plan.embedder, plan.chunking)
    return old if same else None
