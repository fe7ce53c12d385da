"""Provenance of a reply; trace of plugin calls (Change, Call, Trace)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chatlm.types.messages import Message
from chatlm.types.sampling import Sampling


@dataclass(frozen=True)
class Provenance:
    """What made a reply, as far as it can be written down."""

    messages: tuple[Message, ...]
    """The request's, without those that did not fit."""
    sampling: Sampling
    """Every value that held, and the seed."""
    model: str
    """Empty if none was asked: plugins gave the reply, and this is what one would be asked."""
    adapter: str | None = None
    prompt_format: str = ""
    device: str = ""
    dtype: str = ""
    context_length: int = 0
    prompt_hash: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """chatlm's and those of the libraries that computed, by name."""
    plugin_processors: tuple[str, ...] = ()
    """Names of the logits processors and stopping criteria of plugins; a replay lacks them."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "messages": [message.to_dict() for message in self.messages],
            "sampling": self.sampling.to_dict(),
            "model": self.model,
            "adapter": self.adapter,
            "prompt_format": self.prompt_format,
            "device": self.device,
            "dtype": self.dtype,
            "context_length": self.context_length,
            "prompt_hash": self.prompt_hash,
            "versions": dict(self.versions),
            "added": list(self.plugin_processors),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """Read back what `to_dict` made; a key that is not known is passed over.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        return cls(
            messages=tuple(map(Message.from_dict, values["messages"])),
            sampling=Sampling.from_dict(values["sampling"]),
            model=values["model"],
            adapter=values.get("adapter"),
            prompt_format=values.get("prompt_format", ""),
            device=values.get("device", ""),
            dtype=values.get("dtype", ""),
            context_length=values.get("context_length", 0),
            prompt_hash=values.get("prompt_hash", ""),
            versions=values.get("versions", {}),
            plugin_processors=tuple(values.get("added", ())),
        )


@dataclass(frozen=True)
class Change:
    """One thing that a plugin made otherwise."""

    target: str
    """Such as `message 3 (user)`, `temperature` or `logits processors`."""
    before: str
    """Empty for what was not there. Of a long text the part that changed, `…` for the rest."""
    after: str
    """Empty for what was taken out."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "what": self.target,
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
            target=values["what"],
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
    result_summary: str = ""
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
            "said": self.result_summary,
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
            result_summary=values.get("said", ""),
            changes=tuple(map(Change.from_dict, values["changes"])),
            error=values.get("error", ""),
        )


@dataclass(frozen=True)
class Trace:
    """The calls for one message, or for the making of one reply, in order."""

    calls: tuple[Call, ...]
    reply_id: int | None = None
    """Id of the reply; None for what came before any."""

    @property
    def seconds(self) -> float:
        """What all calls took."""
        return sum(call.seconds for call in self.calls)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "reply": self.reply_id,
            "calls": [call.to_dict() for call in self.calls],
        }


def calls_from_dicts(values: list[Mapping[str, Any]]) -> tuple[Call, ...]:
    """Read back the calls that `Trace.to_dict` made plain.

    Raises:
        KeyError, TypeError: it is something else.
    """
    return tuple(map(Call.from_dict, values))


def format_duration(seconds: float) -> str:
    """Such as `12 ms` or `1.3 s`."""
    if seconds >= 0.9995:
        return f"{seconds:,.1f} s"
    thousandths = seconds * 1000
    if thousandths < 0.1:
        return "<0.1 ms"
    return f"{thousandths:.1f} ms" if thousandths < 9.95 else f"{thousandths:.0f} ms"
