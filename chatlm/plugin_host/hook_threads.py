"""Hooks run in threads of their own, so that one that does not return can be left behind.

Nothing in Python can end a thread. The caller of a hook waits for it, and may stop waiting; the
thread is then a daemon that nobody hears of again. It also tells Ctrl-C, which only the main thread
gets, from a `KeyboardInterrupt` that a plugin raises.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from chatlm.plugin_host.faults import Fault

HANG_SECONDS = 2.0
"""Seconds after which a hook that has not returned is shown to the user, who may abandon it."""

_SCHEDULER_FILE = Path("/proc/thread-self/schedstat")

POLL_SECONDS = 0.05
"""How often a caller looks whether it still has to wait."""


class HookCall:
    """One call of a hook, in a thread of its own.

    Args:
        plugin: whose hook it is.
        hook: its name.
        function: calls it and validates its result.
    """

    def __init__(self, plugin: str, hook: str, function: Callable[[], Any]) -> None:
        self.plugin = plugin
        self.hook = hook
        self.value: Any = None
        self.error: BaseException | None = None
        """What it raised."""
        self.own_seconds = 0.0
        """What it took, without calls of other plugins and without waiting for a processor."""
        self.abandoned = False
        """Whether nobody waits for it any more; it may still be running."""
        self.fault: Fault | None = None
        """What was recorded when it was abandoned."""
        self._function = function
        self._started = time.monotonic()
        self._nested_since: float | None = None
        self._nested_seconds = 0.0
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._caller: HookCall | None = getattr(_current, "call", None)

    @property
    def elapsed(self) -> float:
        """Wall seconds since it began, without the calls of other plugins that it made."""
        return time.monotonic() - self._started - self._nested_seconds

    @property
    def hangs(self) -> bool:
        """Whether it has not returned for `HANG_SECONDS`, and waits for no other plugin."""
        waits_for_other = self._nested_since is not None
        return not self._released.is_set() and not waits_for_other and self.elapsed >= HANG_SECONDS

    def start(self) -> None:
        """Begin the call in an idle thread, or in a new one."""
        if self._caller is not None:
            self._caller._nested_since = time.monotonic()
        try:
            thread = _idle.pop()
        except IndexError:
            thread = _HookThread()
            thread.start()
        thread.calls.put(self)

    def wait(self, seconds: float) -> bool:
        """Wait for at most some seconds; return whether it has returned or was abandoned."""
        return self._released.wait(seconds)

    def abandon(self, on_abandon: Callable[[], object] = lambda: None) -> bool:
        """Release who waits for it; return False if it has returned already.

        Args:
            on_abandon: called before the caller goes on.
        """
        with self._lock:
            if self._released.is_set():
                return False
            self.abandoned = True
            on_abandon()
            self._release()
            return True

    def run(self, on_return: Callable[[], object]) -> bool:
        """Make the call in the current thread; return False if it was abandoned meanwhile.

        Args:
            on_return: called before the caller goes on, unless the call was abandoned.
        """
        _current.call = self
        started, delayed = time.perf_counter(), run_queue_seconds()
        value: Any = None
        error: BaseException | None = None
        try:
            value = self._function()
        except BaseException as problem:  # the caller decides what it is worth
            error = problem
        seconds = time.perf_counter() - started
        _current.call = None
        with self._lock:
            if self.abandoned:
                return False
            own = seconds - self._nested_seconds - (run_queue_seconds() - delayed)
            self.own_seconds = max(own, 0.0)
            self.value, self.error = value, error
            on_return()
            self._release()
            return True

    def _release(self) -> None:
        if self._caller is not None and self._caller._nested_since is not None:
            self._caller._nested_seconds += time.monotonic() - self._caller._nested_since
            self._caller._nested_since = None
        self._released.set()


class _HookThread(threading.Thread):
    """Makes one call after the other, until one of them is abandoned."""

    def __init__(self) -> None:
        super().__init__(name="chatlm-hook", daemon=True)
        self.calls: SimpleQueue[HookCall] = SimpleQueue()

    def run(self) -> None:
        """Wait for calls and make them."""
        while self._run_next():
            pass
        _busy.discard(self)

    def _run_next(self) -> bool:
        """Make one call, whose result does not outlive this method."""
        call = self.calls.get()
        _busy.add(self)
        return call.run(self._become_idle)

    def _become_idle(self) -> None:
        _busy.discard(self)
        _idle.append(self)


_current = threading.local()
"""`call`: the call that the current thread makes."""

_idle: list[_HookThread] = []
_busy: set[_HookThread] = set()


def _forget_threads() -> None:
    """Forget the threads of the parent process, which a fork does not copy."""
    _idle.clear()
    _busy.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def hooks_running() -> bool:
    """Whether a hook is still running in some thread, abandoned or not."""
    return bool(_busy)


def run_queue_seconds() -> float:
    """Seconds that the current thread was ready to run while others had the processor.

    Only Linux tells; elsewhere 0. On a busy machine they are most of what a call takes, and no
    fault of the plugin.
    """
    try:
        return int(_SCHEDULER_FILE.read_bytes().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
