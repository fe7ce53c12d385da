"""The hooks a plugin may implement; each is called alone, so one that fails harms nobody else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import pluggy

from chatlm.errors import ChatlmError, UsageError
from chatlm.plugin_host.ui_api import Panel, PluginScreen, SlashCommand, Ui
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.engine import Engine, EngineOpener, ModelListing
from chatlm.types.messages import Annotation, Message, Passage
from chatlm.types.methods import ReplyMethod
from chatlm.types.requests import Request
from chatlm.types.runtimes import GgufRuntime
from chatlm.types.services import as_service
from chatlm.types.setups import Setup, TemplateRenderer, TextFacts
from chatlm.types.tools import Tool

if TYPE_CHECKING:
    import click

    from chatlm.config.config import Config


_OPTION_PATTERN = re.compile("--[a-z][a-z0-9-]{1,29}")


@dataclass(frozen=True)
class AskOption:
    """An option that a plugin adds to `chatlm ask`."""

    name: str
    """Such as `--index`: two hyphens, then lowercase letters, digits and hyphens."""
    help: str
    """One line for `chatlm ask --help`."""
    setup: Callable[[str], Setup]
    """Returns what the chat starts with, from the option's value. Of the set-up, sampling, system
    prompt, adapter and plugin data are used. Raises `ChatlmError` for a wrong value."""
    metavar: str = "TEXT"
    """Stands for the value in the help."""

    def check(self) -> None:
        """Check the fields, when it is registered.

        Raises:
            ValueError: a field is not valid.
        """
        if not isinstance(self.name, str) or not _OPTION_PATTERN.fullmatch(self.name):
            raise ValueError(f"the option {self.name!r} must be -- and lowercase letters")
        if not isinstance(self.help, str) or not self.help.strip():
            raise ValueError(f"help must be one line, not {self.help!r}")
        if not callable(self.setup):
            raise ValueError(f"setup must be a function, not {self.setup!r}")


@runtime_checkable
class ResourceSource(Protocol):
    """Texts that can be attached to a message by name, such as those of a server."""

    def names(self) -> Sequence[str]:
        """Return the names to complete; quick, since keys wait for it. `read` may know others."""
        ...

    def read(self, name: str) -> str:
        """Return the text of one; called in a thread.

        Raises:
            ChatlmError: there is none of this name, or it cannot be read.
        """
        ...


hookspec = pluggy.HookspecMarker("chatlm")


hookimpl = pluggy.HookimplMarker("chatlm")
"""Decorator of a function or method that implements the hook of its name; with `tryfirst=True` it
is called before all others, with `trylast=True` after them."""


T = TypeVar("T")


def _no_service(name: str) -> Any:
    return None


@dataclass(frozen=True)
class PluginContext:
    """The program as a plugin sees it."""

    config: Config
    data_dir: Path
    plugin_settings: Any = None
    """Returned by `settings`."""
    find_service: Callable[[str], Any] = _no_service
    """Used by `service`."""

    def service(self, name: str, protocol: Callable[..., T]) -> T | None:
        """Return a service that another plugin offers; None if no plugin does.

        Look it up when it is needed, not in `startup`: a plugin may be disabled or fail later.

        Args:
            name: such as `documents`; see `chatlm.types.services`.
            protocol: what the service must be an instance of, such as `chatlm.Documents`.
        """
        return as_service(self.find_service(name), protocol)

    def settings(self, kind: type[T]) -> T:
        """Return the plugin's validated settings.

        Args:
            kind: the plugin's class `Settings`.

        Raises:
            TypeError: it is another class.
        """
        if not isinstance(self.plugin_settings, kind):
            raise TypeError(f"{kind.__name__} is not the plugin's class Settings")
        return self.plugin_settings


class Commands(Protocol):
    """The command line as seen by plugins: a click group to add commands to."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command that is already imported."""

    def add_lazy(self, name: str, import_path: str, help: str) -> None:
        """Add a command that is imported when it is run: best for one with heavy imports.

        Args:
            name: as it is typed.
            import_path: `module:attribute` of a `click.Command`.
            help: what it does, in one line.
        """

    def group_of(self, name: str) -> Commands:
        """Return a group of chatlm's own, to add commands to it.

        Args:
            name: `models`, `chats`, `config`, `tools` or `plugins`.

        Raises:
            ValueError: there is no such group.
        """
        ...


@hookspec
def startup(context: PluginContext) -> None:
    """chatlm is ready and will call the other hooks from now on."""


@hookspec
def shutdown() -> None:
    """chatlm is about to exit."""


@hookspec
def register_commands(cli: Commands) -> None:
    """Add commands to `chatlm`; called without `startup`, and only when one may be needed."""


@hookspec
def register_ask_options(register: Callable[[AskOption], None]) -> None:
    """Add options to `chatlm ask`; called without `startup`, and only when one may be needed."""


@hookspec
def register_engines(register: Callable[[str, EngineOpener], None]) -> None:
    """Offer engines: `register("openai", opener)` makes `openai:NAME` a model."""


@hookspec
def register_gguf_runtimes(register: Callable[[str, GgufRuntime], None]) -> None:
    """Offer ways to run GGUF files: `register("llamacpp", load)` serves `engine = llamacpp`, and
    models that chatlm's own decoders cannot run."""


@hookspec
def list_models() -> Sequence[ModelListing]:
    """List the models that the plugin's engines can open, for `chatlm models list` and `/model`."""
    raise NotImplementedError


@hookspec
def register_templates(register: Callable[[str, TemplateRenderer], None]) -> None:
    """Offer templates: `register("translate", render)` makes `chatlm ask -t translate` work."""


@hookspec
def register_methods(register: Callable[[ReplyMethod], None]) -> None:
    """Offer ways to make a reply: `register(ReplyMethod("twice", …))` serves `method = twice`."""


@hookspec
def register_setups(register: Callable[[str, Setup], None]) -> None:
    """Offer set-ups: `register("poet", Setup(adapter="poet"))` lets `chatlm serve` answer so."""


@hookspec
def register_services(register: Callable[[str, Any], None]) -> None:
    """Offer services to other plugins: `register("documents", service)`."""


@hookspec
def register_tools(register: Callable[[Tool], None]) -> None:
    """Offer tools that models may call: `register(tool)`; asked whenever tools are needed."""


@hookspec
def register_slash_commands(register: Callable[[SlashCommand], None]) -> None:
    """Offer commands on the screen; called before the screen starts."""


@hookspec
def register_panels(register: Callable[[Panel], None]) -> None:
    """Offer panels beside the transcript; called before the screen starts."""


@hookspec
def register_screens(register: Callable[[PluginScreen], None]) -> None:
    """Offer whole screens; called before the screen starts."""


@hookspec
def screen_opened(ui: Ui) -> None:
    """The chat is on the screen; a plugin may store `ui` to notify the user later."""


@hookspec
def chat_shown(ui: Ui) -> None:
    """Another chat is on the screen, or a new one.

    Called again for it if something else changes the plugin's data of the chat meanwhile.
    """


@hookspec
def chat_deleted(conversation_id: int) -> None:
    """A chat was deleted for good, or an incognito one left; delete all that is kept about it."""


@hookspec
def suggest_text(conversation: Conversation, text: str) -> str | None:
    """Suggest text to insert at the end of what is being written; the first plugin's is shown."""


@hookspec
def read_attachment(path: Path) -> str | ChatlmError | None:
    """Read the text of a file that is attached to a message; the first plugin that can decides.

    A `ChatlmError` that is returned says why the file cannot be read.
    """


@hookspec
def register_resources(register: Callable[[str, ResourceSource], None]) -> None:
    """Offer texts to attach: `register("wiki", source)` makes `@wiki:NAME` mention one."""


@hookspec
def describe_text(conversation: Conversation, text: str) -> Mapping[str, str] | None:
    """Return facts about what the user typed, by name, for `write_message` and templates.

    Called when one of them needs it; the conversation has the id 0 where there is none yet.
    """


@hookspec
def write_message(
    conversation: Conversation, text: str, facts: TextFacts
) -> str | UsageError | None:
    """Write the message for what the user typed; the first plugin that returns one decides.

    `facts()` gives what plugins say of the words in `describe_text`.

    The input is stored before the call, shown, searched for passages and offered to edit; the
    conversation ends before it. A `UsageError` that is returned refuses it: nothing is sent or
    stays in the chat, and the user sees why. Make it a `MessageRefused` where other words would
    be answered.
    """


@hookspec
def annotate_message(
    conversation: Conversation, message: Message, passages: Sequence[Passage]
) -> Sequence[Annotation]:
    """Label a message: the user's before it is answered, the reply when it has ended.

    `passages` are those that the reply was made with; none for the user's message.
    """
    raise NotImplementedError


@hookspec
def retrieve_passages(conversation: Conversation, message: Message) -> Sequence[Passage]:
    """Find pieces of documents that may help to answer the user's message."""
    raise NotImplementedError


@hookspec
def build_messages(
    conversation: Conversation, turn: Turn, passages: Sequence[Passage]
) -> Sequence[Message] | None:
    """Make what the model reads; the first plugin that returns messages decides.

    `passages` are what all plugins found for the turn.
    """


@hookspec
def adjust_request(
    request: Request,
    conversation: Conversation,
    turn: Turn,
    passages: Sequence[Passage],
    engine: Engine,
) -> Request | None:
    """Change the request just before it runs; each plugin gets what the one before it returned."""


@hookspec
def find_adapter(name: str, model: str) -> Path | ChatlmError | None:
    """Return the folder of the adapter that a request names; the first plugin that has it decides.

    A `ChatlmError` that is returned says why it cannot be used on that model.
    """


@hookspec
def turn_finished(conversation: Conversation, turn: Turn) -> Sequence[Annotation] | None:
    """The reply is complete, or was cancelled, and is stored.

    What is returned labels the user's message: labels that the answer should not wait for.
    `chatlm ask` waits a second for them.
    """
