"""Setup, RenderedTemplate, TemplateRenderer; SideChat and SideChats protocols."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from chatlm.types.engine import Engine
from chatlm.types.events import EngineEvent
from chatlm.types.messages import PluginData
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling


@dataclass(frozen=True)
class RenderedTemplate:
    """A template with its gaps filled."""

    system: str = ""
    """The system prompt; empty where the template has none."""
    user: str = ""
    """The user's message; empty where the person still has to write it."""
    sampling: Sampling = field(default_factory=Sampling)
    """What holds where the person says nothing."""
    raw_input: str = ""
    """The words that the plugin's `write_message` makes `user` of; empty where it has no part."""
    plugin_state: Mapping[str, Any] = field(default_factory=dict)
    """What the plugin keeps with a chat that begins so, as plain values."""


TextFacts = Callable[[], Mapping[str, str]]
"""`() -> facts`: what plugins say of the words that were typed, by name, such as their mood. Asked
for only where it is needed, since a plugin may have to think about it."""


TemplateRenderer = Callable[[Mapping[str, str], str, TextFacts], RenderedTemplate]
"""`(values, typed, facts) -> rendered`: `values` of the variables by name, what the person typed or
piped in, and what plugins say of that. Raises UsageError for a name that is unknown or a value that
is missing or wrong."""


@dataclass(frozen=True)
class Setup:
    """All that decides how a chat is answered."""

    model: str = ""
    """As `--model` takes it; empty for the one in the config."""
    adapter: str = ""
    """Empty for none."""
    template: str = ""
    """The name of a template that the chat goes by; empty for none."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Of the template's variables, by name."""
    system: str = ""
    """The system prompt; empty for the template's own, else none."""
    sampling: Sampling = field(default_factory=Sampling)
    """Goes before what the template sets; what both leave open is the model's."""
    plugin_data: PluginData = field(default_factory=dict)
    """What plugins keep with the chat."""

    def to_dict(self) -> dict[str, Any]:
        """The parts that say something, ready for JSON."""
        values = {
            "model": self.model,
            "adapter": self.adapter,
            "template": self.template,
            "values": dict(self.values),
            "system": self.system,
            "sampling": self.sampling.to_dict(),
            "kept": {plugin: dict(values) for plugin, values in self.plugin_data.items()},
        }
        return {name: value for name, value in values.items() if value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Setup:
        """Read back what `to_dict` made; a key that is not known is passed over.

        Raises:
            UsageError: a sampling value is out of its range.
        """
        return cls(
            model=values.get("model", ""),
            adapter=values.get("adapter", ""),
            template=values.get("template", ""),
            values=values.get("values", {}),
            system=values.get("system", ""),
            sampling=Sampling.from_dict(values.get("sampling", {})),
            plugin_data=values.get("kept", {}),
        )


class SideChat(Protocol):
    """One chat that is kept in memory alone; not for two threads at once."""

    @property
    def setup(self) -> Setup:
        """What answers it."""
        ...

    @property
    def engine(self) -> Engine:
        """The loaded model; loads it first where it is not there.

        Raises:
            ModelError, OutOfMemoryError: it cannot be loaded.
        """
        ...

    def check(self) -> None:
        """See that the set-up works, as far as that is known without loading the model.

        Raises:
            ModelError: the model is not here, or cannot be used.
            ChatlmError: something else is missing, such as an adapter, a template or an index.
        """
        ...

    def request(self, text: str) -> Request:
        """What is sent for the next message, after all plugins had their say.

        Returns:
            with no setting left open but perhaps the seed.

        Raises:
            MessageRefused: a plugin has no answer to this message.
            UsageError: the set-up does not work, such as a template or an index that is gone.
            ContextTooLong, ModelError: as `Engine.stream`.
        """
        ...

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """Generate, as `Engine.stream`; a request that is complete asks no engine."""
        ...

    def events_without_engine(self, request: Request) -> Sequence[EngineEvent]:
        """The part of `stream` that needs no engine: what plugins let the reply begin with, and
        `Finished` where the request is complete."""
        ...

    def add(self, text: str, reply: str) -> None:
        """Let a message and its reply stand in the chat."""


class SideChats(Protocol):
    """Begins chats; the models that they share stay loaded until it is closed."""

    def begin(self, setup: Setup) -> SideChat:
        """A new chat; loads nothing yet."""
        ...

    def available_setups(self) -> dict[str, Setup]:
        """The set-ups that plugins offer now, by name.

        A template is one too, if it needs no more than the person's words. Where two plugins have
        the same name, it is PLUGIN.NAME.
        """
        ...

    @property
    def swaps_models(self) -> bool:
        """Whether models do not fit side by side, so that each is freed for the next."""
        ...

    def __enter__(self) -> Self:
        """Itself."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free the models that were loaded for it."""
