"""Indices that are open, kept for the next question; one that was replaced is opened anew."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread

from chatlm import ChatlmError
from chatlm_rag import manifest
from chatlm_rag.folder import IndexFolder, located
from chatlm_rag.manifest import Manifest
from chatlm_rag.searching import Index

log = logging.getLogger("chatlm.plugins.rag")


@dataclass(frozen=True, eq=False)
class OpenIndex:
    """An index with what is said of its files."""

    place: IndexFolder
    folder: Path | None
    """The one that counted when it was opened."""
    index: Index
    made: Manifest


_open: dict[str, OpenIndex] = {}
_lock = Lock()


def opened(name: str) -> OpenIndex:
    """The index of a name.

    Raises:
        ChatlmError: there is none, or it cannot be opened; see `Index.open`.
    """
    place = located(name)
    with _lock:
        while name not in _open or _open[name].folder != place.current():
            folder = place.current()
            _open[name] = OpenIndex(place, folder, Index.open(place), place.open(manifest.read))
        return _open[name]


def ready(name: str) -> None:
    """Open an index and load its embedder, so that the next question need not wait.

    Raises:
        ChatlmError: see `opened`, or the embedder cannot be loaded.
    """
    opened(name).index.search("", 1)


def warm(name: str) -> None:
    """Do that in a thread; what is wrong with the index the first question will say."""
    Thread(target=_warm, args=(name,), name="chatlm-rag-warm", daemon=True).start()


def _warm(name: str) -> None:
    try:
        ready(name)
    except ChatlmError as error:
        log.info("index %s is not ready: %s", name, error)
