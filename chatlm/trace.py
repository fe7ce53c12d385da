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

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "what": self.what,
            "before": self.before,
            "after": self.after,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Change:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            what=values["what"],
            before=values["before"],
            after=values["after"],
        )


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

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "plugin": self.plugin,
            "hook": self.hook,
            "seconds": self.seconds,
            "said": self.said,
            "changes": [change.to_dict() for change in self.changes],
            "error": self.error,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Call:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            plugin=values["plugin"],
            hook=values["hook"],
            seconds=values["seconds"],
            said=values.get("said", ""),
            changes=tuple(map(Change.from_dict, values["changes"])),
            error=values.get("error", ""),
        )


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
            "calls": [call.to_dict() for call in self.calls],
        }


def calls_from(values: list[Mapping[str, Any]]) -> tuple[Call, ...]:
    """Read back the calls that `Trace.to_dict` made plain.

    Raises:
        KeyError, TypeError: it is something else.
    """
    return tuple(map(Call.from_dict, values))


def duration(seconds: float) -> str:
    """Such as `12 ms` or `1.3 s`."""
    if seconds >= 0.9995:
        return f"{seconds:,.1f} s"
    thousandths = seconds * 1000
    if thousandths < 0.1:
        return "<0.1 ms"
    return f"{thousandths:.1f} ms" if thousandths < 9.95 else f"{thousandths:.0f} ms"
