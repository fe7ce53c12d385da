"""Faults of plugins and their wording; Ctrl-C among the code of plugins."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

from chatlm.errors import ChatlmError
from chatlm.text import one_line

LOADING_STEPS = ("loading", "import", "registration", "settings")
"""Where a plugin may fail before any hook."""


FaultKind = Literal["failed", "slow", "abandoned"]
"""`slow` returned something valid too late, `abandoned` had not returned when nobody waited for it
any longer."""


@dataclass(frozen=True)
class Fault:
    """A plugin that failed, was slow or did not return: which, where, how."""

    plugin: str
    hook: str
    """The hook, one of `LOADING_STEPS`, or another place where it was called."""
    error: str
    dropped: bool = False
    hint: str = ""
    """The next step; empty for the generic one."""
    kind: FaultKind = "failed"

    def __str__(self) -> str:
        verb = "failed" if self.kind == "failed" else "was slow"
        if self.kind == "abandoned":
            verb = "did not return"
        end = " It is left out until chatlm restarts." if self.dropped else ""
        log = "More: chatlm logs. " if self.kind == "failed" else ""
        hint = self.hint or f"{log}Without it: chatlm plugins disable {self.plugin}"
        return f"The plugin {self.plugin} {verb} in {self.hook}: {self.error}.{end} {hint}"

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "plugin": self.plugin,
            "hook": self.hook,
            "error": self.error,
            "left_out": self.dropped,
            "hint": self.hint,
            "kind": self.kind,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fault:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            plugin=values["plugin"],
            hook=values["hook"],
            error=values["error"],
            dropped=values.get("left_out", False),
            hint=values.get("hint", ""),
            kind=values.get("kind", "failed"),
        )


class CtrlC(KeyboardInterrupt):
    """Ctrl-C, where a plugin may raise a `KeyboardInterrupt` of its own."""


@contextmanager
def marked_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C raise `CtrlC` inside; any other `KeyboardInterrupt` is then the plugin's.

    Only the main thread gets Ctrl-C; in others nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_ctrl_c(number: int, frame: FrameType | None) -> None:
        raise CtrlC

    previous = signal.signal(signal.SIGINT, raise_ctrl_c)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is raise_ctrl_c:
            signal.signal(signal.SIGINT, previous)


def describe_error(error: BaseException) -> str:
    """Describe an exception raised by plugin code, on one line, without a full stop."""
    if isinstance(error, ChatlmError):
        return one_line(error.message, 300).rstrip(".")
    try:
        message = str(error)
    except Exception:  # `__str__` of a plugin's exception may fail, too
        message = "(no message)"
    return one_line(": ".join(filter(None, (type(error).__name__, message))), 300).rstrip(".")
