"""Lets Ctrl-C end long work between two of its steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopped_by_keys() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C end the work after its step, and a second one at once.

    Yields:
        Whether the work shall end; to be asked after each step. Never, outside the main thread.
    """
    wanted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wanted.is_set
        return

    def press(number: int, frame: FrameType | None) -> None:
        if wanted.is_set():
            raise KeyboardInterrupt
        wanted.set()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield wanted.is_set
    finally:
        signal.signal(signal.SIGINT, before)
