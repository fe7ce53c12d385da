"""What plugins did for a turn, as values; knows no plugin, no storage and no screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """One thing that a plugin made otherwise."""

    what: str
    """Such as `message 3 (user)`, `temperature` or `logits processors`."""
    before: str
    """Empty for what was not there. Of a long text the part that changed, `…` for the rest."""
    after: str
    """Empty for what was taken out."""


@dataclass(frozen=True)
class Call:
    """One call of one plugin."""

    plugin: str
    hook: str
    """The hook, or what the plugin added to the request and was called while the reply grew."""
    seconds: float
    said: str = ""
    """What came back, in short; empty for nothing."""
    changes: tuple[Change, ...] = ()
    error: str = ""
    """How it failed; what it returned was not used then. Empty for a call that went well."""


@dataclass(frozen=True)
class Trace:
    """The calls for one message, or for the making of one reply, in order."""

    calls: tuple[Call, ...]
    reply: int | None = None
    """Id of the reply; None for what came before any."""

    @property
    def seconds(self) -> float:
        """What all calls took."""
        return sum(call.seconds for call in self.calls)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "reply": self.reply,
            "calls": [
                vars(call) | {"changes": [dict(vars(change)) for change in call.changes]}
                for call in self.calls
            ],
        }


def calls_from(values: list[Mapping[str, Any]]) -> tuple[Call, ...]:
    """Read back the calls that `Trace.to_dict` made plain.

    Raises:
        KeyError, TypeError: it is something else.
    """
    return tuple(
        Call(**{**call, "changes": tuple(Change(**change) for change in call["changes"])})
        for call in values
    )


def duration(seconds: float) -> str:
    """Such as `12 ms` or `1.3 s`."""
    if seconds >= 0.9995:
        return f"{seconds:,.1f} s"
    thousandths = seconds * 1000
    if thousandths < 0.1:
        return "<0.1 ms"
    return f"{thousandths:.1f} ms" if thousandths < 9.95 else f"{thousandths:.0f} ms"
