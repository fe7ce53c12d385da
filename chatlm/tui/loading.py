"""Opens the engine once, in a thread, and lets others wait for it; knows no widget."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from chatlm.errors import Cancelled, ChatlmError, ModelError
from chatlm.generation import Engine, EngineInfo

log = logging.getLogger(__name__)

OpenEngine = Callable[[Callable[[str], None]], Engine]
"""Opens the engine; is given a function to call with a few words on what it is doing."""

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Loading:
    """The engine is on its way."""

    stage: str = ""
    """A few words on what is being done."""


@dataclass(frozen=True)
class Ready:
    """The engine can answer."""

    info: EngineInfo


@dataclass(frozen=True)
class Failed:
    """The engine could not be opened."""

    error: ChatlmError


EngineState = Loading | Ready | Failed


class EngineLoader:
    """Holds the one engine of the program.

    Args:
        open_engine: does the work.
        changed: told every new state, in the thread that loads.
    """

    def __init__(self, open_engine: OpenEngine, changed: Callable[[EngineState], object]) -> None:
        self._open = open_engine
        self._changed = changed
        self._settled = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread()
        self._engine: Engine | None = None
        self._error: ChatlmError | None = None

    def start(self) -> None:
        """Load in a thread of its own; after a failure, once more.

        A daemon thread, since a library that is being imported cannot be interrupted, and nobody
        should wait for it on the way out.
        """
        self._settled.clear()
        self._error = None
        self._thread = threading.Thread(target=self.load, name="chatlm-engine", daemon=True)
        self._thread.start()

    def load(self) -> None:
        """Open the engine and report how it went."""
        try:
            self._engine = self._open(self._report)
        except Cancelled as error:
            self._fail(error)
        except ChatlmError as error:
            log.error("engine not opened: %s", error)
            self._fail(error)
        except Exception as error:  # libraries below may fail in any way
            log.exception("engine not opened")
            self._fail(
                ModelError(
                    f"The model could not be loaded: {type(error).__name__}: {error}",
                    hint="`chatlm logs` has the details.",
                )
            )
        else:
            self._settled.set()
            self._changed(Ready(self._engine.info))

    def wait(self, stop: threading.Event) -> Engine:
        """The engine, as soon as it is there.

        Raises:
            Cancelled: `stop` was set first.
            ChatlmError: it could not be opened.
        """
        while not self._settled.wait(POLL_SECONDS):
            if stop.is_set():
                raise Cancelled("Stopped before the model was ready.")
        if self._engine is None:
            raise self._error or ModelError("No model is loaded.", hint="Start chatlm again.")
        return self._engine

    def abandon(self, seconds: float = 0.0) -> bool:
        """Make a load that is going on end at its next step.

        Returns:
            Whether the thread has ended within `seconds`.
        """
        self._abandoned.set()
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Free the engine, if there is one."""
        if self._engine is not None:
            self._engine.close()

    def _report(self, stage: str) -> None:
        if self._abandoned.is_set():
            raise Cancelled("chatlm is closing.")
        self._changed(Loading(stage))

    def _fail(self, error: ChatlmError) -> None:
        self._error = error
        self._settled.set()
        self._changed(Failed(error))
