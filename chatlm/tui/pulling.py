"""Pulls a generator in a worker thread and posts what it yields; knows no widget and no session."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

from textual.message import Message

from chatlm.errors import ChatlmError
from chatlm.tui.answering import UPDATES_PER_SECOND
from chatlm.tui.failures import told

Begin = Callable[[], Generator[object, None, None]]
"""Makes the generator, in the thread that pulls it."""


@dataclass
class Pulled(Message):
    """Values the generator yielded since the last such message."""

    values: tuple[object, ...]
    source: threading.Event
    """The `stop` that was given to `pull`; tells whose values these are."""


@dataclass
class PullEnded(Message):
    """The generator is closed, and nothing comes any more."""

    error: ChatlmError | None
    """What made it end early, unless it was stopped."""
    source: threading.Event


def once(make: Callable[[], object]) -> Generator[object, None, None]:
    """The generator of a single value."""
    yield make()


def pull(begin: Begin, stop: threading.Event, post: Callable[[Message], object]) -> None:
    """Pull the generator to its end, or until `stop` is set; the last message is `PullEnded`."""
    error: ChatlmError | None = None
    waiting: list[object] = []
    posted_at = 0.0
    try:
        with closing(begin()) as values:
            for value in values:
                if stop.is_set():
                    break
                waiting.append(value)
                if time.monotonic() - posted_at >= 1 / UPDATES_PER_SECOND:
                    post(Pulled(tuple(waiting), stop))
                    waiting.clear()
                    posted_at = time.monotonic()
    except Exception as problem:
        error = told(problem, "work on a card")
    if waiting:
        post(Pulled(tuple(waiting), stop))
    post(PullEnded(error, stop))
