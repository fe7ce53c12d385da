"""Provenance of a reply, and the trace of the plugin calls behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chatlm.types.messages import Message
from chatlm.types.requests import ToolDefinition
from chatlm.types.sampling import Sampling


@dataclass(frozen=True)
class Provenance:
    """Everything needed to reproduce a reply, as far as it can be stored."""

    messages: tuple[Message, ...]
    """The request's messages without those that did not fit."""
    sampling: Sampling
    """Every setting that was in effect, and the seed."""
    model: str
    """Empty if plugins provided the reply; the rest then describes the request to a model."""
    adapter: str | None = None
    prompt_format: str = ""
    device: str = ""
    weights: str = ""
    """As `EngineInfo.weights`; `describe_old_weights` explains what earlier versions stored."""
    kv_cache: str = ""
    """As `EngineInfo.kv_cache`."""
    context_length: int = 0
    prompt_hash: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Version of chatlm and of the libraries that ran the model, by name."""
    plugin_processors: tuple[str, ...] = ()
    """Names of the plugins' logits processors and stopping criteria, which a replay lacks."""
    tools: tuple[ToolDefinition, ...] = ()
    """What the model might call."""
    tool_choice: str = "auto"
    """As `Request.tool_choice`."""
    parallel_tool_calls: bool = True
    """As `Request.parallel_tool_calls`."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values; `tools` and `kv_cache` only where there are any."""
        values: dict[str, Any] = {
            "messages": [message.to_dict() for message in self.messages],
            "sampling": self.sampling.to_dict(),
            "model": self.model,
            "adapter": self.adapter,
            "prompt_format": self.prompt_format,
            "device": self.device,
            "dtype": self.weights,
            "context_length": self.context_length,
            "prompt_hash": self.prompt_hash,
            "versions": dict(self.versions),
            "added": list(self.plugin_processors),
        }
        if self.kv_cache:
            values["kv_cache"] = self.kv_cache
        if self.tools:
            values["tools"] = [tool.to_dict() for tool in self.tools]
            values["tool_choice"] = self.tool_choice
            values["parallel_tool_calls"] = self.parallel_tool_calls
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """Restore from the values of `to_dict`; unknown keys are ignored.

        Raises:
            KeyError, TypeError, ValueError: a key is missing or has an invalid value.
        """
        return cls(
            messages=tuple(map(Message.from_dict, values["messages"])),
            sampling=Sampling.from_dict(values["sampling"]),
            model=values["model"],
            adapter=values.get("adapter"),
            prompt_format=values.get("prompt_format", ""),
            device=values.get("device", ""),
            weights=values.get("dtype", ""),
            kv_cache=values.get("kv_cache", ""),
            context_length=values.get("context_length", 0),
            prompt_hash=values.get("prompt_hash", ""),
            versions=values.get("versions", {}),
            plugin_processors=tuple(values.get("added", ())),
            tools=tuple(map(ToolDefinition.from_dict, values.get("tools", ()))),
            tool_choice=values.get("tool_choice", "auto"),
            parallel_tool_calls=values.get("parallel_tool_calls", True),
        )


_OLD_FORMATS = {
    "bfloat16": "16-bit", "float16": "16-bit", "float32": "32-bit",
    "int8": "8-bit", "int4": "4-bit", "int4 and int8": "4-bit and 8-bit",
    "8bit": "8-bit", "4bit": "4-bit",
}  # fmt: skip


def describe_old_weights(stored: str) -> str:
    """Return `Provenance.weights` in today's words, such as `8-bit` for `int8 (fast)`."""
    name, _, engine = stored.removesuffix(")").partition(" (")
    if name not in _OLD_FORMATS:
        return stored
    suffix = {"fast": "", "torch": ", torch", "": ", transformers"}.get(engine)
    return stored if suffix is None else _OLD_FORMATS[name] + suffix


@dataclass(frozen=True)
class Change:
    """One change made by a plugin."""

    target: str
    """Such as `message 3 (user)`, `temperature` or `logits processors`."""
    before: str
    """Empty for an addition. Of a long text only the part that changed, `…` for the rest."""
    after: str
    """Empty for a removal."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "what": self.target,
            "before": self.before,
            "after": self.after,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Change:
        """Restore from the values of `to_dict`.

        Raises:
            KeyError, TypeError: a key is missing or has an invalid value.
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
    """The hook, or the logits processor or stopping criterion that the plugin added."""
    seconds: float
    result_summary: str = ""
    """The result in a few words; empty for none."""
    changes: tuple[Change, ...] = ()
    error: str = ""
    """Why it failed, in which case its result was not used; empty for a success."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
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
        """Restore from the values of `to_dict`.

        Raises:
            KeyError, TypeError: a key is missing or has an invalid value.
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
    """The plugin calls for one message or one reply, in order."""

    calls: tuple[Call, ...]
    reply_id: int | None = None
    """None for the calls before any reply."""

    @property
    def seconds(self) -> float:
        """Total time of the calls."""
        return sum(call.seconds for call in self.calls)

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "reply": self.reply_id,
            "calls": [call.to_dict() for call in self.calls],
        }


def calls_from_dicts(values: list[Mapping[str, Any]]) -> tuple[Call, ...]:
    """Read back the calls that `Trace.to_dict` returned.

    Raises:
        KeyError, TypeError: a key is missing or has an invalid value.
    """
    return tuple(map(Call.from_dict, values))


def format_duration(seconds: float) -> str:
    """Format a duration, such as `12 ms` or `1.3 s`."""
    if seconds >= 0.9995:
        return f"{seconds:,.1f} s"
    thousandths = seconds * 1000
    if thousandths < 0.1:
        return "<0.1 ms"
    return f"{thousandths:.1f} ms" if thousandths < 9.95 else f"{thousandths:.0f} ms"
