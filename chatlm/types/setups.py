"""Chat setups, rendered templates, and the protocols of side chats."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from chatlm.types.conversations import PluginData
from chatlm.types.engine import Engine
from chatlm.types.events import EngineEvent
from chatlm.types.parts import PreparedImage
from chatlm.types.replies import ReplyStep
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling

T = TypeVar("T")


@dataclass(frozen=True)
class RenderedTemplate:
    """A template with its variables filled in."""

    system: str = ""
    """Empty if the template has none."""
    user: str = ""
    """The user's message; empty if the user still has to write it."""
    sampling: Sampling = field(default_factory=Sampling)
    """Used where the user sets nothing."""
    raw_input: str = ""
    """The input that the plugin's `write_message` turns into `user`; empty if it does not."""
    plugin_state: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that the plugin stores with a chat started from it."""
    tools: tuple[str, ...] = ()
    """Tools and groups of tools that a chat started from it offers; it allows no call of them."""
    images: tuple[str, ...] = ()
    """Paths and web addresses of the images of the user's first message."""


TextFacts = Callable[[], Mapping[str, str]]
"""`() -> facts`: what plugins know about the typed text, by name, such as its mood. Called only if
needed, since it may run a model."""


TemplateRenderer = Callable[[Mapping[str, str], str, TextFacts], RenderedTemplate]
"""`(values, raw_input, facts) -> rendered`: the variables' values by name, what the user typed or
piped in, and what plugins know about that. Raises UsageError for an unknown name or a missing or
invalid value."""


@dataclass(frozen=True)
class OfferedTemplate:
    """A template as a plugin offers it."""

    name: str
    plugin: str
    render: TemplateRenderer
    overridden: tuple[str, ...] = ()
    """Plugins that offer another template of this name, which is not used."""

    @property
    def description(self) -> str:
        """The first line of the renderer's docstring; empty for none."""
        is_function = inspect.isfunction(self.render) or inspect.ismethod(self.render)
        lines = (inspect.getdoc(self.render) or "").splitlines() if is_function else []
        return lines[0] if lines else ""


@dataclass(frozen=True)
class Setup:
    """Everything that determines how a chat is answered."""

    model: str = ""
    """As for `--model`; empty for the configured one."""
    adapter: str = ""
    """Empty for none."""
    template: str = ""
    """Name of the template; empty for none."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Values of the template's variables by name."""
    system: str = ""
    """The system prompt; empty for the template's."""
    sampling: Sampling = field(default_factory=Sampling)
    """Takes priority over the template's; what both leave open is the model's default."""
    plugin_data: PluginData = field(default_factory=dict)
    """What plugins store with the chat."""
    tools: tuple[str, ...] = ()
    """Tools and groups of tools that the model may call, besides those of the template."""

    def to_dict(self) -> dict[str, Any]:
        """Convert the fields that are set to JSON values."""
        values = {
            "model": self.model,
            "adapter": self.adapter,
            "template": self.template,
            "values": dict(self.values),
            "system": self.system,
            "sampling": self.sampling.to_dict(),
            "kept": {plugin: dict(values) for plugin, values in self.plugin_data.items()},
            "tools": list(self.tools),
        }
        return {name: value for name, value in values.items() if value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Setup:
        """Restore from the values of `to_dict`; unknown keys are ignored.

        Raises:
            UsageError: a sampling value is out of range.
        """
        return cls(
            model=values.get("model", ""),
            adapter=values.get("adapter", ""),
            template=values.get("template", ""),
            values=values.get("values", {}),
            system=values.get("system", ""),
            sampling=Sampling.from_dict(values.get("sampling", {})),
            plugin_data=values.get("kept", {}),
            tools=tuple(values.get("tools", ())),
        )


class SideChat(Protocol):
    """A chat in memory; not thread-safe."""

    @property
    def setup(self) -> Setup:
        """The setup that answers it."""
        ...

    @property
    def engine(self) -> Engine:
        """The model, loaded on first use.

        Raises:
            ModelError, OutOfMemoryError: it cannot be loaded.
        """
        ...

    def check(self) -> None:
        """Check the setup as far as possible without loading the model.

        Raises:
            ModelError: the model is missing or cannot be used.
            ChatlmError: something else is missing, such as an adapter, a template or an index.
        """
        ...

    def check_images(self, images: Sequence[PreparedImage]) -> None:
        """Refuse images that the model, which is loaded for this, cannot read.

        Raises:
            UsageError: it cannot; the hint names models here that can.
            ModelError, OutOfMemoryError: it cannot be loaded.
        """
        ...

    def request(
        self,
        text: str,
        reply: Sequence[ReplyStep] = (),
        images: Sequence[PreparedImage] = (),
    ) -> Request:
        """Build the request for the next message, with the plugins' adjustments.

        Args:
            text: the message.
            reply: what its reply has already: steps with results of tools, or text to continue.
            images: the message's images.

        Returns:
            every setting is set, except perhaps the seed.

        Raises:
            MessageRefused: a plugin has no answer to this message.
            UsageError: the setup does not work, such as a missing template or index.
            ContextTooLong, ModelError: as `Engine.stream`.
        """
        ...

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """Generate as `Engine.stream` does; a complete request runs no engine."""
        ...

    def events_without_engine(self, request: Request) -> Sequence[EngineEvent]:
        """Return the part of `stream` that needs no engine: the beginning that plugins gave the
        reply, and `Finished` if the request is complete."""
        ...

    def run_tools(self, text: str, reply: Sequence[ReplyStep]) -> tuple[ReplyStep, ...]:
        """Run the calls in the last step of the reply to the next message; blocks until they end.

        Nobody is asked: what no rule of the settings and no tool itself allows is denied, and the
        result says so.

        Args:
            text: the message.
            reply: its reply so far, which ends with calls.

        Returns:
            the reply with the results, for `request`; its last step has the stop reason
            `tool_limit` if no more steps are allowed.
        """
        ...

    def add(
        self,
        text: str,
        reply: str | Sequence[ReplyStep],
        images: Sequence[PreparedImage] = (),
    ) -> None:
        """Add a message to the chat with its images and its reply: the answer, or all steps."""


class SideChats(Protocol):
    """Starts side chats; the models they share stay loaded until it is closed."""

    def begin(self, setup: Setup) -> SideChat:
        """Start a chat; loads nothing yet."""
        ...

    def available_setups(self) -> dict[str, Setup]:
        """Return the setups that plugins offer, by name.

        A template is one too if it needs nothing but the user's input. A name that two plugins use
        becomes PLUGIN.NAME.
        """
        ...

    def available_templates(self) -> dict[str, OfferedTemplate]:
        """Return the templates that plugins offer, by name.

        If several plugins offer the same name, the one called first wins.
        """
        ...

    def render_template(
        self, name: str, values: Mapping[str, str], raw_input: str
    ) -> RenderedTemplate:
        """Render a template as for a new chat.

        Args:
            name: the template.
            values: values of its variables by name.
            raw_input: what the user typed.

        Raises:
            UsageError: the template was not found, or a value is missing or invalid.
        """
        ...

    def service(self, name: str, protocol: Callable[..., T]) -> T:
        """Return a service that a plugin offers; see `chatlm.service`.

        Raises:
            UsageError: no plugin offers it.
        """
        ...

    @property
    def swaps_models(self) -> bool:
        """Whether models do not fit in memory together, so that each is freed for the next."""
        ...

    def free(self, model: str) -> None:
        """Free a loaded model, which nothing may use any longer; it is loaded again on demand."""
        ...

    def __enter__(self) -> Self:
        """Return itself."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free the models it loaded."""
