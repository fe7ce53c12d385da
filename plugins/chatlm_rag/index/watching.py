"""Keep an index up to date while its files change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Protocol

from chatlm import ChatlmError, ProgressReporter, UsageError
from chatlm_rag.index import builder, folder, manifest
from chatlm_rag.index.builder import BuildResult
from chatlm_rag.index.folder import IndexLocked
from chatlm_rag.index.writer import BuildStopped

log = logging.getLogger("chatlm.plugins.rag")

DEBOUNCE_MS = 1_600
"""Milliseconds for which changes are gathered before the index is updated."""

STEP_MS = 100
"""Milliseconds without a change after which gathered ones are reported."""

STOP_SECONDS = 2.0
"""For how long a thread that is to end is waited for."""

IDLE_MS = 1_000
"""Milliseconds after which an update that another process prevented is tried again."""


class Stop(Protocol):
    """Says when to end; a `threading.Event` does."""

    def is_set(self) -> bool:
        """Return whether to end."""


class Until(ProgressReporter):
    """Progress of an update that can be ended."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    @property
    def cancelled(self) -> bool:
        """Whether the update is to end."""
        return self._stop.is_set()

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Do nothing: updates are short, and nobody waits for them."""


def updates(name: str, stop: Stop) -> Iterator[BuildResult]:
    """Update an index now and whenever its files change; yield each result.

    Changes of the files in a source are seen within seconds, hidden ones aside. A source that does
    not exist when this is called is not watched.

    Args:
        name: of the index.
        stop: ends it.

    Raises:
        ChatlmError: there is no such index, none of its sources exists, or an update fails for
            another reason than that the files cannot be read at this moment.
    """
    from watchfiles import watch

    sources = folder.find_index(name).open(manifest.read).sources
    paths = [path for path in map(Path, (source.path for source in sources)) if path.exists()]
    if not paths:
        raise UsageError(
            f"No source of {name} exists on this machine, so there is nothing to watch.",
            hint=f"See them: chatlm rag show {name}",
        )
    changes = watch(
        *paths,
        stop_event=stop,
        debounce=DEBOUNCE_MS,
        step=STEP_MS,
        rust_timeout=IDLE_MS,
        yield_on_timeout=True,
        raise_interrupt=True,
    )
    pending = True  # changes since the last update
    try:
        next(changes)  # from here on, no change is missed
    except (OSError, RuntimeError) as error:
        raise ChatlmError(
            f"The files of {name} cannot be watched: {error}",
            hint=f"Update it by hand: chatlm rag update {name}\nOn Linux, a folder with very many "
            "folders in it may need a larger fs.inotify.max_user_watches.",
        ) from error
    while not stop.is_set():
        try:
            if pending:
                yield builder.update(name, Until(stop))
            pending = False
        except BuildStopped:
            return
        except IndexLocked:
            log.info("index %s is changed by another process", name)
        pending |= bool(next(changes, None))


class Watches:
    """The indices that this process keeps up to date in the background, each in a thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._stops: dict[str, Event] = {}
        self._threads: list[Thread] = []

    def start(self, name: str, tell: Callable[[str], None]) -> None:
        """Keep an index up to date from now on; do nothing if that is done already.

        Args:
            name: of the index.
            tell: called with a sentence when that ends because of an error; in the thread.
        """
        with self._lock:
            if name in self._stops:
                return
            stop = self._stops[name] = Event()
            thread = Thread(
                target=self._run, args=(name, stop, tell), name="chatlm-rag-watch", daemon=True
            )
            self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Stop all of them; wait for a moment, as a thread within watchfiles must not be alive when
        Python ends."""
        with self._lock:
            for stop in self._stops.values():
                stop.set()
            self._stops.clear()
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join(STOP_SECONDS)

    def _run(self, name: str, stop: Event, tell: Callable[[str], None]) -> None:
        try:
            for result in updates(name, stop):
                if result.changed:
                    log.info("index %s: read %d changed files", name, result.files_read)
        except ChatlmError as error:
            log.warning("index %s is no longer watched: %s", name, error)
            tell(f"{name} is no longer kept up to date. {error.message}")
        finally:
            with self._lock:
                if self._stops.get(name) is stop:
                    del self._stops[name]


shared_watches = Watches()
"""Those of the chats that were opened."""
