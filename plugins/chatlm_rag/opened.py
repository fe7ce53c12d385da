"""Indices that are open, kept for the next question; one that was replaced is opened anew."""

from __future__ import annotations

import logging
from pathlib import Path
from threading import Lock, Thread

from chatlm import ChatlmError
from chatlm_rag.folder import located
from chatlm_rag.searching import Index

log = logging.getLogger("chatlm.plugins.rag")

_open: dict[str, tuple[Path | None, Index]] = {}
"""By name, with the folder that counted."""
_lock = Lock()


def opened(name: str) -> Index:
    """The index of a name.

    Raises:
        ChatlmError: there is none, or it cannot be opened; see `Index.open`.
    """
    place = located(name)
    current = place.current()
    with _lock:
        if name not in _open or _open[name][0] != current:
            _open[name] = (current, Index.open(place))
        return _open[name][1]


def ready(name: str) -> None:
    """Open an index and load its embedder, so that the next question need not wait.

    Raises:
        ChatlmError: see `opened`, or the embedder cannot be loaded.
    """
    opened(name).search("", 1)


def warm(name: str) -> None:
    """Do that in a thread; what is wrong with the index the first question will say."""
    Thread(target=_warm, args=(name,), name="chatlm-rag-warm", daemon=True).start()


def _warm(name: str) -> None:
    try:
        ready(name)
    except ChatlmError as error:
        log.info("index %s is not ready: %s", name, error)
