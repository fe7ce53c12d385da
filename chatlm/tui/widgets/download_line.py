"""One line above the status bar: a model that is downloaded in the background."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial

from textual import events, on
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from chatlm.errors import ChatlmError, ModelError
from chatlm.hub.disk import human_bytes
from chatlm.hub.jobs import STAGE_LABELS, PullCancelled, Stage
from chatlm.hub.pull import pull_model
from chatlm.text import one_line

UPDATE_SECONDS = 0.25
"""Least time between two updates of the progress."""


class DownloadLine(Static):
    """Downloads a model in a thread and shows how far it is; hidden while there is nothing to say.

    An interrupted download is resumed when it is started again.
    """

    DEFAULT_CSS = """
    DownloadLine {
        display: none;
        height: 1;
        padding: 0 1;
        background: $foreground 8%;
        color: $text-accent;
        &.-shown { display: block; }
        &.-failed { color: $text-warning; }
    }
    """

    @dataclass
    class Progressed(Message):
        """The download went on."""

        name: str
        text: str

    @dataclass
    class Ended(Message):
        """The download ended."""

        name: str
        error: ChatlmError | None

    @dataclass
    class SwitchRequested(Message):
        """The user clicked on the line of a model that is ready."""

        name: str

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._cancelled = threading.Event()
        self._ready = ""
        """The model that was downloaded and not used yet."""

    def start(self, name: str) -> None:
        """Download a model in place of any other."""
        self.stop()
        self._ready = ""
        self._cancelled = threading.Event()
        self._show(f"{one_line(name, 40)} · starting the download")
        threading.Thread(
            target=partial(self._download, name, self._cancelled), name="download", daemon=True
        ).start()

    def stop(self) -> None:
        """Stop the download; what is there of it stays."""
        self._cancelled.set()

    def hide(self) -> None:
        """Hide the line, since the model is in use."""
        self._ready = ""
        self.remove_class("-shown")

    def on_unmount(self) -> None:
        """Stop the thread."""
        self.stop()

    @property
    def ready(self) -> str:
        """The model that was downloaded and not used yet; empty for none."""
        return self._ready

    def _download(self, name: str, cancelled: threading.Event) -> None:
        shown_at = 0.0

        def progress(stage: Stage, done: int, total: int | None) -> None:
            nonlocal shown_at
            now = time.monotonic()
            if now - shown_at >= UPDATE_SECONDS:
                shown_at = now
                self.post_message(self.Progressed(name, _progress_text(name, stage, done, total)))

        error: ChatlmError | None = None
        try:
            pull_model(name, progress, cancelled.is_set)
        except PullCancelled:
            return
        except ChatlmError as reason:
            error = reason
        except Exception as reason:  # libraries below may fail in any way
            error = ModelError(f"{type(reason).__name__}: {reason}")
        if not cancelled.is_set():
            self.post_message(self.Ended(name, error))

    @on(Progressed)
    def _show_progress(self, event: Progressed) -> None:
        event.stop()
        if not self._cancelled.is_set():
            self._show(event.text)

    @on(Ended)
    def _show_end(self, event: Ended) -> None:
        event.stop()
        name = one_line(event.name, 40)
        if event.error is None:
            self._ready = event.name
            self._show(f"{name} is ready · /model {name} switches to it, or click here")
        else:
            reason = one_line(event.error.message, 200)
            self._show(f"{name} · the download stopped, /model resumes it: {reason}", failed=True)

    def on_click(self, event: events.Click) -> None:
        """Switch to the model that is ready."""
        if self._ready:
            event.stop()
            self.post_message(self.SwitchRequested(self._ready))

    def _show(self, text: str, *, failed: bool = False) -> None:
        self.set_class(failed, "-failed")
        self.add_class("-shown")
        self.update(Content(text))


def _progress_text(name: str, stage: Stage, done: int, total: int | None) -> str:
    amount = ""
    if total:
        amount = f" {done * 100 // total} %, {human_bytes(done)} of {human_bytes(total)}"
    return f"{one_line(name, 40)} · {STAGE_LABELS[stage]}{amount}"
