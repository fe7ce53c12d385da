"""What a plugin's author tests with: a chat with a scripted model, kept in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatlm import hookspecs
from chatlm.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.events import SessionEvent
from chatlm.generation import Request
from chatlm.messages import Annotation, StopReason, Turn
from chatlm.plugins import Fault, PluginHost
from chatlm.session import ChatSession
from chatlm.store import Store

__all__ = ["ScriptedChat", "ScriptedEngine", "scripted_chat"]


class ScriptedChat:
    """A chat in which a plugin works as in the real one; see `scripted_chat`."""

    def __init__(self, session: ChatSession, engine: ScriptedEngine, host: PluginHost) -> None:
        self.session = session
        self.engine = engine
        self.plugins = host
        self.events: list[SessionEvent] = []
        """All that the last `say` reported, in order."""

    @property
    def faults(self) -> list[Fault]:
        """What the plugin did wrong so far; a good test ends with none."""
        return self.plugins.past

    @property
    def requests(self) -> list[Request]:
        """What the model was asked, the newest last."""
        return self.engine.requests

    def say(self, text: str) -> Turn:
        """Send a message, let the model answer, and return the whole turn.

        Raises:
            UsageError: the text is blank.
            EngineError: the script says so.
        """
        self.events = list(self.session.send(text))
        conversation = self.session.conversation
        if conversation is None:
            raise RuntimeError("the message was not stored")
        return conversation.turns[-1]

    def annotations(self, turn: Turn) -> list[Annotation]:
        """All labels of a turn, the message's first."""
        return [label for _, label in self.session.store.annotations(turn.id)]


@contextmanager
def scripted_chat(
    plugin: Any,
    *replies: str | StopReason | Exception,
    settings: Mapping[str, Any] | None = None,
    data_dir: Path | None = None,
) -> Iterator[ScriptedChat]:
    """A chat with one plugin and a model that says what it is told; no weights, no files.

    Args:
        plugin: the module or object with the hooks.
        replies: what the model says, in order; see `ScriptedEngine`.
        settings: of the plugin, as `[plugins.NAME]` of config.toml would have them.
        data_dir: what the plugin gets as chatlm's data folder.

    Raises:
        ValueError: the plugin cannot be loaded, or a setting is wrong; the message says why.
    """
    name = "plugin"
    host = PluginHost([(name, plugin)])
    own = host.settings(name, settings or {}) if name in host.names else None
    if faults := host.take_faults():
        raise ValueError(f"{faults[0].hook}: {faults[0].error}")
    config = Config(plugins={name: settings or {}})
    context = hookspecs.Context(config, data_dir or Path(), own)
    engine = ScriptedEngine(*replies)
    with Store(None) as store:
        session = ChatSession(store, lambda: engine, plugins=host)
        chat = ScriptedChat(session, engine, host)
        for _ in host.each("startup", context=context):
            pass
        yield chat
        for _ in host.each("shutdown"):
            pass
