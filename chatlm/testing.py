"""Test helpers for plugin authors: a chat with a scripted model, a screen without a terminal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm.chat.session import ChatSession
from chatlm.chat.tool_process import call_tool
from chatlm.chat.tool_set import ToolOptions
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine, ScriptedReply
from chatlm.plugin_host import hookspecs
from chatlm.plugin_host.faults import Fault
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.types.conversations import Turn
from chatlm.types.events import Approval, ApprovalNeeded, SessionEvent, ToolQuestion
from chatlm.types.messages import Annotation
from chatlm.types.requests import Request
from chatlm.types.tool_rules import ToolSettings
from chatlm.types.tools import Tool, ToolCancelled, ToolOutput

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from chatlm.tui.app import ChatApp

__all__ = [
    "ScriptedChat",
    "ScriptedEngine",
    "ScriptedScreen",
    "ScriptedToolContext",
    "run_tool",
    "scripted_chat",
    "scripted_screen",
]

PLUGIN_NAME = "plugin"
"""The plugin's name in tests."""

TIMEOUT_SECONDS = 20.0
"""Seconds that a command or a reply may take."""


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
        """All faults of the plugin so far; a good test ends with none."""
        return self.plugins.all_faults

    @property
    def requests(self) -> list[Request]:
        """The requests to the model, newest last."""
        return self.engine.requests

    def say(self, text: str, *answers: bool | str) -> Turn:
        """Send a message, let the model answer, and return the whole turn.

        Args:
            text: the message.
            answers: of the user while tools run, in order: whether a call is allowed, and texts
                for the questions of tools; what is left unanswered is denied.

        Raises:
            UsageError: the text is blank.
            EngineError: the script says so.
        """
        waiting = list(answers)
        self.events = []
        for event in self.session.send(text):
            self.events.append(event)
            if isinstance(event, ApprovalNeeded) and waiting:
                event.answer = Approval(bool(waiting.pop(0)))
            elif isinstance(event, ToolQuestion) and waiting:
                event.answer = str(waiting.pop(0))
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
    *replies: ScriptedReply,
    settings: Mapping[str, Any] | None = None,
    data_dir: Path | None = None,
) -> Iterator[ScriptedChat]:
    """Open a chat in memory with one plugin and a scripted model.

    Args:
        plugin: the module or object with the hooks.
        replies: what the model says, in order; see `ScriptedEngine`.
        settings: of the plugin, as `[plugins.NAME]` of config.toml would have them.
        data_dir: what the plugin gets as chatlm's data folder.

    Raises:
        ValueError: the plugin cannot be loaded, or a setting is wrong; the message says why.
    """
    config = Config(plugins={PLUGIN_NAME: settings or {}}, tools=ToolSettings(enabled=True))
    engine = ScriptedEngine(*replies)
    with _started_host(plugin, config, data_dir) as host, Store(None) as store:
        tools = ToolOptions(config.tools)
        session = ChatSession(store, lambda: engine, plugins=host, tools=tools)
        yield ScriptedChat(session, engine, host)


class ScriptedScreen:
    """chatlm's screen with a plugin at work in it; see `screen`."""

    def __init__(
        self, app: ChatApp, pilot: Pilot[None], engine: ScriptedEngine, host: PluginHost
    ) -> None:
        self.app = app
        self.pilot = pilot
        """Textual's own, for what is not offered here: the mouse, single widgets."""
        self.engine = engine
        self.plugins = host

    @property
    def faults(self) -> list[Fault]:
        """All faults of the plugin so far; a good test ends with none."""
        return self.plugins.all_faults

    @property
    def requests(self) -> list[Request]:
        """The requests to the model, newest last."""
        return self.engine.requests

    @property
    def notifications(self) -> list[str]:
        """The texts of the notifications on the screen, newest last."""
        return [notice.message for notice in self.app._notifications]

    async def submit(self, text: str) -> None:
        """Send a message or a slash command, and wait until everything it starts has ended.

        Raises:
            TimeoutError: it did not end.
        """
        composer = self.app.chat_screen.chat.composer
        self.app.chat_screen.set_focus(composer)
        composer.text = text
        await self.press("enter")

    async def press(self, *keys: str) -> None:
        """Press keys by Textual's names, such as `ctrl+b`, and wait for all that comes of them.

        Raises:
            TimeoutError: it did not end.
        """
        await self.pilot.press(*keys)
        await self.settle()

    async def settle(self) -> None:
        """Wait until no reply is written, nothing of a plugin runs, and all is drawn.

        Raises:
            TimeoutError: it did not end.
        """
        shown = self.app.chat_screen
        deadline = time.monotonic() + TIMEOUT_SECONDS
        still = 0
        while still < 3:
            await asyncio.sleep(0.01)
            composer = shown.chat.composer
            writing = shown.chat.busy or composer.busy or composer.suggesting
            still = 0 if writing or shown.plugin_actions.busy else still + 1
            if time.monotonic() > deadline:
                raise TimeoutError(f"something still runs after {TIMEOUT_SECONDS:g} seconds")
        await self.pilot.pause()

    def text(self) -> str:
        """Return the visible text of the screen, line by line."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in strips)


@asynccontextmanager
async def scripted_screen(
    plugin: Any,
    *,
    replies: Sequence[ScriptedReply] = (),
    settings: Mapping[str, Any] | None = None,
    keys: Mapping[str, str] | None = None,
    data_dir: Path | None = None,
    size: tuple[int, int] = (120, 36),
) -> AsyncIterator[ScriptedScreen]:
    """Open chatlm's screen without a terminal, with one plugin and a scripted model.

    Args:
        plugin: the module or object with the hooks.
        replies: what the model says, in order; see `ScriptedEngine`.
        settings: of the plugin, as `[plugins.NAME]` of config.toml would have them.
        keys: of commands, as `[keys]` of config.toml would have them.
        data_dir: what the plugin gets as chatlm's data folder.
        size: columns and lines of the terminal.

    Raises:
        ValueError: the plugin cannot be loaded, or a setting is wrong; the message says why.
    """
    from chatlm.tui.app import ChatApp

    config = Config(
        plugins={PLUGIN_NAME: settings or {}}, keys=keys or {}, tools=ToolSettings(enabled=True)
    )
    engine = ScriptedEngine(*replies)
    with _started_host(plugin, config, data_dir) as host, Store(None) as store:
        app = ChatApp(store, lambda model, report: engine, plugins=host, config=config)
        async with app.run_test(size=size, notifications=True) as pilot:
            shown = ScriptedScreen(app, pilot, engine, host)
            await shown.settle()
            yield shown
            app.chat_screen.plugin_actions.close()
            await shown.settle()


class ScriptedToolContext:
    """A `chatlm.ToolContext` whose questions are answered by a script.

    Args:
        answers: of the user to the tool's questions, in order; without one, the tool gets
            `ToolCancelled` as if nobody were there.
        conversation_id: the chat.
        incognito: whether nothing about it may be written to disk.
        data_folder: of the plugin; None for the current folder.
        workspace_folders: what the user lets tools use.
        settings: the object of the plugin's class `Settings`.
        cancel_after: how many texts of `progress` it takes until the user stops the tool; None for
            never.
    """

    def __init__(
        self,
        *answers: str,
        conversation_id: int = 1,
        incognito: bool = False,
        data_folder: Path | None = None,
        workspace_folders: Sequence[Path] = (),
        settings: Any = None,
        cancel_after: int | None = None,
    ) -> None:
        self.conversation_id = conversation_id
        self.incognito = incognito
        self.data_folder = data_folder or Path()
        self.workspace_folders = tuple(workspace_folders)
        self.settings = settings
        self.reported: list[tuple[str, float | None]] = []
        """The text and the fraction of each call of `progress`."""
        self.questions: list[str] = []
        """What the tool asked."""
        self._answers = list(answers)
        self._cancel_after = cancel_after

    @property
    def cancelled(self) -> bool:
        """Whether the user stopped the tool."""
        return self._cancel_after is not None and len(self.reported) >= self._cancel_after

    def check_cancelled(self) -> None:
        """Raise `ToolCancelled` if the user stopped the tool."""
        if self.cancelled:
            raise ToolCancelled("The user stopped it")

    def progress(self, text: str, fraction: float | None = None) -> None:
        """Note it in `reported`."""
        self.reported.append((text, fraction))

    def ask(self, question: str, choices: Sequence[str] = ()) -> str:
        """Return the next answer of the script.

        Raises:
            ValueError: it is none of the choices.
            ToolCancelled: the script has no answer left.
        """
        self.questions.append(question)
        if not self._answers:
            raise ToolCancelled("Nobody answered the question of the tool")
        answer = self._answers.pop(0)
        if choices and answer not in choices:
            raise ValueError(f"the script answers {answer!r}, which is none of {list(choices)}")
        return answer


def run_tool(
    tool: Tool,
    arguments: Mapping[str, Any] | None = None,
    context: ScriptedToolContext | None = None,
) -> ToolOutput:
    """Run a tool as a chat would once the user allowed the call, without its time limit.

    Args:
        tool: the tool.
        arguments: as a model gives them; wrong ones make an output with `is_error`.
        context: None for one without answers.

    Raises:
        ValueError: the schema of the tool's arguments is wrong.
        ToolCancelled: the tool stopped since the user stopped it or did not answer.
    """
    tool.check()
    return call_tool(tool, arguments or {}, context or ScriptedToolContext())


@contextmanager
def _started_host(plugin: Any, config: Config, data_dir: Path | None) -> Iterator[PluginHost]:
    """Load and start the plugin; shut it down at the end."""
    host = PluginHost([(PLUGIN_NAME, plugin)])
    own = (
        host.settings(PLUGIN_NAME, config.plugins[PLUGIN_NAME])
        if PLUGIN_NAME in host.names
        else None
    )
    if faults := host.take_faults():
        raise ValueError(f"{faults[0].hook}: {faults[0].error}")
    context = hookspecs.PluginContext(config, data_dir or Path(), own, host.service)
    host.call_hook("startup", context=context)
    yield host
    host.call_hook("shutdown")
