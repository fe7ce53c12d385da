"""Runs one turn in a worker thread: pulls its events, posts messages, touches no widget."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing

from textual.message import Message

from chatlm.errors import ChatlmError
from chatlm.events import (
    Delta,
    Finished,
    Fitted,
    MessageAnnotated,
    Notice,
    Prefill,
    ReplyStarted,
    TurnStarted,
)
from chatlm.messages import Usage
from chatlm.replying import Events
from chatlm.session import ChatSession
from chatlm.tui.failures import told
from chatlm.tui.messages import TextGathered, TurnEnded, TurnProgressed

log = logging.getLogger(__name__)

UPDATES_PER_SECOND = 30
"""More than this no eye sees, and each costs a layout."""

STEPS = TurnStarted | MessageAnnotated | ReplyStarted | Fitted | Prefill | Notice
"""What is shown as soon as it happens."""


def answer(
    begin: Callable[[], Events], stop: threading.Event, post: Callable[[Message], object]
) -> None:
    """Begin a turn and pull its events to their end, or until `stop` is set.

    The last message posted is always `TurnEnded`.

    The generator is closed in this thread, so the reply is stored when `TurnEnded` is posted.
    """
    gathered = _Gathered(post)
    error: ChatlmError | None = None
    try:
        with closing(begin()) as events:
            for event in events:
                if isinstance(event, Delta):
                    gathered.add(event)
                elif isinstance(event, STEPS):
                    gathered.flush()
                    post(TurnProgressed(event))
                elif isinstance(event, Finished):
                    gathered.flush()
                if stop.is_set():
                    break
    except Exception as problem:
        error = told(problem, "turn")
    gathered.flush()
    post(TurnEnded(error))


def read_ahead(session: ChatSession, stop: threading.Event) -> None:
    """Let the model read the chat while the person reads and types, until `stop` is set."""
    try:
        with closing(session.read_ahead()) as steps:
            for _ in steps:
                if stop.is_set():
                    break
    except ChatlmError as problem:  # the next turn will say it, if it still holds
        log.info("did not read ahead: %s", problem)


class _Gathered:
    """Joins deltas, so that the screen gets at most `UPDATES_PER_SECOND` messages."""

    def __init__(self, post: Callable[[Message], object]) -> None:
        self._post = post
        self._pieces: list[str] = []
        self._usage = Usage()
        self._posted_at = 0.0

    def add(self, delta: Delta) -> None:
        self._pieces.append(delta.text)
        self._usage = delta.usage
        if time.monotonic() - self._posted_at >= 1 / UPDATES_PER_SECOND:
            self.flush()

    def flush(self) -> None:
        if not self._pieces:
            return
        self._post(TextGathered("".join(self._pieces), self._usage))
        self._pieces.clear()
        self._posted_at = time.monotonic()
