"""Shared services of the terminal UI: config, plugins, the engine, chat sessions and clocks."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from chatlm.chat.pasted_images import PastedImages
from chatlm.chat.resources import Resources
from chatlm.chat.session import ChatSession
from chatlm.chat.side_chats import InMemorySideChats
from chatlm.chat.tool_set import ToolOptions
from chatlm.config.config import Config
from chatlm.engines.open import is_available
from chatlm.errors import ModelError
from chatlm.hub import names as names_module
from chatlm.hub.catalogue import catalogue
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.tui.composer.completion import Completer
from chatlm.tui.engine_loader import EngineLoader, EngineState, Loading, OpenEngine
from chatlm.tui.graphics import Graphics
from chatlm.types.conversations import Conversation, PluginData, Turn
from chatlm.types.projects import Project
from chatlm.types.replies import utc_now
from chatlm.types.sampling import THINKING_LEVELS, Sampling
from chatlm.types.tool_rules import ChatTools


@dataclass
class OpenChat:
    """A chat that is open or answering; its first message gives it a `conversation_id`."""

    store: Store
    conversation_id: int | None = None
    system: str = ""
    """The system prompt of a new chat."""
    sampling: Sampling = field(default_factory=Sampling)
    """The user's sampling for a new chat."""
    plugin_data: PluginData = field(default_factory=dict)
    """Plugin data of a new chat."""
    disabled_plugins: frozenset[str] = frozenset()
    """Plugins disabled in a new chat."""
    project: Project | None = None
    """The project that a new chat belongs to."""
    tools: ChatTools = field(default_factory=ChatTools)
    """What the user decided about tools in a new chat."""
    loaded: Conversation | None = None
    """The stored chat as it was loaded or changed last, so that nobody reads it in the UI thread;
    None before the first message."""

    @property
    def conversation(self) -> Conversation:
        """The stored chat; before its first message, an empty one with its settings."""
        return self.loaded or Conversation(
            0,
            system=self.system,
            sampling=self.sampling,
            plugin_data=self.plugin_data,
            disabled_plugins=self.disabled_plugins,
            project=self.project,
            tools=self.tools,
        )

    def change(self, field: str, value: object) -> None:
        """Change a setting of the loaded chat or, before its first message, of the new one."""
        if self.loaded is not None:
            values: dict[str, Any] = {field: value}
            self.loaded = dataclasses.replace(self.loaded, **values)
        else:
            setattr(self, field, value)

    def unload(self) -> None:
        """Become a new chat with the settings of the loaded one, which is not stored any longer."""
        chat = self.conversation
        self.system, self.sampling, self.plugin_data = chat.system, chat.sampling, chat.plugin_data
        self.disabled_plugins, self.project = chat.disabled_plugins, chat.project
        self.tools = chat.tools
        self.conversation_id = self.loaded = None

    def update_turn(self, turn: Turn) -> None:
        """Replace a turn of the loaded chat, or append it."""
        if self.loaded is not None:
            self.loaded = self.loaded.with_turn(turn)


@dataclass(eq=False)
class Services:
    """What the screens, widgets and actions share; used in the UI thread."""

    store: Store
    """The saved chats."""
    plugins: PluginHost
    config: Config
    """The current configuration; replaced when the user saves new defaults."""
    open_engine: OpenEngine
    engine: EngineLoader
    """The engine of the program."""
    publish_engine_state: Callable[[EngineState], object]
    """Called with every new engine state."""
    clock: Callable[[], float]
    """Monotonic seconds."""
    now: Callable[[], datetime] = utc_now
    engine_state: EngineState = field(default_factory=lambda: Loading(""))
    resources: Resources = field(default_factory=Resources)
    """What plugins offer to attach to a message."""
    graphics: Graphics = "text"
    """How the terminal draws images."""
    pasted_images: PastedImages = field(default_factory=PastedImages)
    """Images of the clipboard and screenshots, until their message is sent."""

    def set_engine_state(self, state: EngineState) -> None:
        """Store and publish the state of the engine."""
        self.engine_state = state
        self.publish_engine_state(state)

    def load_engine(self, model: str = "") -> None:
        """Load a model in a thread in place of the current one; by default, load that one again."""
        model = model or self.engine_state.model
        self.set_engine_state(Loading(model))
        self.engine.start(model)

    def require_available(self, model: str) -> None:
        """Check that a model can be loaded without a download.

        Raises:
            ModelError: the model is unknown or not downloaded.
        """
        if not is_available(model, self.plugins):
            raise ModelError(
                f"The model {model} is not on this machine yet",
                hint="/model without a name lists models and downloads them.",
            )

    def create_session(self, chat: OpenChat, stop: threading.Event) -> ChatSession:
        """Return a session for one turn of a chat; setting `stop` ends its wait for the engine."""
        return ChatSession(
            chat.store,
            partial(self.engine.wait, stop),
            plugins=self.plugins,
            sampling=self.config.sampling,
            system=chat.system,
            chat_sampling=chat.sampling,
            plugin_data=chat.plugin_data,
            disabled_plugins=chat.disabled_plugins,
            conversation_id=chat.conversation_id,
            project=chat.project,
            tools=ToolOptions(self.config.tools),
            chat_tools=chat.tools,
        )

    def side_chats(self, report: Callable[[str], None]) -> InMemorySideChats:
        """Return chats beside the open one, which share its engine."""
        return InMemorySideChats(
            self.config, self.plugins, self.open_engine, report, lambda: self.engine.engine
        )


def argument_completers(themes: Callable[[], Iterable[str]]) -> Mapping[str, Completer]:
    """Return the completers of slash command arguments by command; paths need none."""
    return {
        "theme": lambda typed: _filter_names(typed, themes()),
        "thinking": lambda typed: _filter_names(typed, THINKING_LEVELS),
        "model": lambda typed: _filter_names(typed, _installed_chat_models()),
        "replay": lambda typed: _filter_names(typed, _installed_chat_models()),
    }


def _installed_chat_models() -> list[str]:
    """Return the installed models that can chat."""
    entries = catalogue()
    names = names_module.installed_names()
    return [name for name in names if name not in entries or entries[name].kind == "chat"]


def _filter_names(query: str, names: Iterable[str]) -> list[str]:
    """Return the names that contain the query, those that start with it first."""
    query = query.lower()
    found = [name for name in names if query in name.lower()]
    return sorted(found, key=lambda name: (not name.lower().startswith(query), name))
