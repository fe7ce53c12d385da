"""Load the engine in a thread, and report its state."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from textual.message import Message as TextualMessage

from chatlm.errors import Cancelled, ChatlmError, ModelError
from chatlm.types.engine import Engine, EngineInfo
from chatlm.types.messages import Message

log = logging.getLogger(__name__)


OpenEngine = Callable[[str, Callable[[str], None]], Engine]
"""Opens a model by name; calls the function with the current stage."""


POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Loading:
    """The model is loading."""

    model: str
    stage: str = ""
    """Current stage of loading."""


@dataclass(frozen=True)
class Ready:
    """The engine can answer."""

    info: EngineInfo

    @property
    def model(self) -> str:
        """The model's name."""
        return self.info.model


@dataclass(frozen=True)
class Failed:
    """The model failed to load."""

    model: str
    error: ChatlmError


EngineState = Loading | Ready | Failed


class EngineLoader:
    """Owner of the one engine of the app, which can be replaced.

    Args:
        open_engine: opens a model.
        on_change: called with every new state, in the loading thread.
    """

    def __init__(self, open_engine: OpenEngine, on_change: Callable[[EngineState], object]) -> None:
        self._open_engine = open_engine
        self._on_change = on_change
        self._attempt = _LoadAttempt("")
        self._thread = threading.Thread()
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine | None:
        """The engine, if it is loaded."""
        return self._engine if self._attempt.finished.is_set() else None

    def count_tokens(self, text: str) -> int | None:
        """Return the tokens a text adds to a user message; None while no model is loaded."""
        engine = self.engine
        if engine is None:
            return None
        with_text, without = (engine.count_tokens([Message("user", t)]) for t in (text, ""))
        return with_text - without

    def fits_context(self, text: str) -> bool:
        """Whether a text leaves a quarter of the context to question and reply; True while no
        model is loaded."""
        engine, tokens = self.engine, self.count_tokens(text)
        return engine is None or tokens is None or tokens <= engine.info.context_length * 3 // 4

    def start(self, model: str) -> None:
        """Load a model in its own thread, in place of the current one.

        A daemon thread, since a library that is being imported cannot be interrupted, and nobody
        should wait for it on the way out. A load that goes on ends at its next step, and the next
        one begins then.
        """
        self._attempt.cancelled.set()
        load, before = _LoadAttempt(model), self._thread
        self._attempt = load
        self._thread = threading.Thread(
            target=lambda: self._run(load, before), name="chatlm-engine", daemon=True
        )
        self._thread.start()

    def wait(self, stop: threading.Event) -> Engine:
        """Wait for the engine and return it.

        Raises:
            Cancelled: `stop` was set first.
            ChatlmError: the model failed to load.
        """
        while self.still_loading(POLL_SECONDS):
            if stop.is_set():
                raise Cancelled("Stopped before the model was ready.")
        if self._engine is None:
            raise self._attempt.error or ModelError(
                "No model is loaded.", hint="Start chatlm again."
            )
        return self._engine

    def still_loading(self, seconds: float) -> bool:
        """Wait up to `seconds`; return whether the engine is still loading."""
        return not self._attempt.finished.wait(seconds)

    def cancel(self, seconds: float = 0.0) -> bool:
        """Cancel a running load at its next step.

        Returns:
            Whether the thread has ended within `seconds`.
        """
        self._attempt.cancelled.set()
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Close the engine, or cancel its loading."""
        self._attempt.cancelled.set()
        self._close_engine()

    def _close_engine(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _run(self, attempt: _LoadAttempt, previous: threading.Thread) -> None:
        """Close the old engine first, since two may not fit into memory; then load the new one."""
        if previous.is_alive():
            previous.join()
        if attempt.cancelled.is_set():
            attempt.error = Cancelled("Another model was chosen, or chatlm is closing.")
            attempt.finished.set()
            return
        self._close_engine()
        gc.unfreeze()

        def report(stage: str) -> None:
            if attempt.cancelled.is_set():
                raise Cancelled("Another model was chosen, or chatlm is closing.")
            self._on_change(Loading(attempt.model, stage))

        try:
            self._engine = self._open_engine(attempt.model, report)
        except Cancelled as error:
            attempt.error = error
        except ChatlmError as error:
            log.error("engine not opened: %s", error)
            attempt.error = error
        except Exception as error:  # libraries below may fail in any way
            log.exception("engine not opened")
            attempt.error = ModelError(
                f"The model could not be loaded: {type(error).__name__}: {error}",
                hint="`chatlm logs` has the details.",
            )
        gc.freeze()  # of what libraries keep for ever, each collection would look at all again
        attempt.finished.set()
        if attempt is not self._attempt:
            return
        if self._engine is not None:
            self._on_change(Ready(self._engine.info))
        elif attempt.error is not None:
            self._on_change(Failed(attempt.model, attempt.error))


class _LoadAttempt:
    """One attempt to open a model."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.finished = threading.Event()
        self.cancelled = threading.Event()
        self.error: ChatlmError | None = None


@dataclass
class EngineChanged(TextualMessage):
    """A new state of the engine."""

    state: EngineState
