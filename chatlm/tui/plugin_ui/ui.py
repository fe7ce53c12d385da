"""The thread-safe `Ui` of a plugin, and its progress reporter."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from chatlm.chat.side_chats import InMemorySideChats
from chatlm.chat.tool_set import ToolOptions
from chatlm.text import escape_controls, one_line
from chatlm.tui.chat.controller import ChatController
from chatlm.tui.composer.drafts import sanitise
from chatlm.tui.screens.image import ImageScreen
from chatlm.tui.services import Services
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.engine import Engine
from chatlm.types.messages import Passage
from chatlm.types.parts import PreparedImage
from chatlm.types.sampling import Sampling

MAX_NOTICE_LENGTH = 1000
"""Maximum characters of a notice."""


class PluginUiHost(Protocol):
    """What a `PluginUi` uses of the chat screen."""

    services: Services
    chat: ChatController
    closing: threading.Event

    @property
    def regions(self) -> PluginRegionsApi:
        """The panels and screens."""

    def call_in_ui_thread(self, callback: Callable[[], Awaitable[object] | object]) -> None:
        """Run something in the UI thread; callable from any thread."""

    def set_plugin_data(self, ui: PluginUi, values: Mapping[str, Any]) -> None:
        """Change a plugin's data of the chat."""

    def set_status(self, plugin: str, text: str) -> None:
        """Show a plugin's text in the status bar."""

    def show_progress(self, reporter: UiProgressReporter) -> None:
        """Show a progress line."""

    def hide_progress(self, reporter: UiProgressReporter) -> None:
        """Remove a progress line."""

    def switch_model(self, name: str) -> None:
        """Load another model."""


class PluginRegionsApi(Protocol):
    """What a `PluginUi` uses of the panels and screens."""

    selected_turn_id: int | None

    def open_screen(self, name: str, argument: str = "") -> None:
        """Show a plugin's screen."""

    def toggle_panel(self, name: str) -> None:
        """Open or close a plugin's panel."""


class PluginUi:
    """The `chatlm.Ui` of one plugin; callable from any thread.

    Args:
        plugin: the plugin's name.
        host: the chat screen's side of it.
    """

    def __init__(self, plugin: str, host: PluginUiHost) -> None:
        self.plugin = plugin
        self._host = host
        self._chat = host.chat

    @property
    def conversation(self) -> Conversation:
        """The open chat."""
        return self._chat.conversation

    @property
    def turn(self) -> Turn | None:
        """The selected turn, or else the newest."""
        turns = self.conversation.turns
        selected = self._host.regions.selected_turn_id
        chosen = [turn for turn in turns if turn.id == selected]
        return (chosen or turns or (None,))[-1]

    @property
    def passages(self) -> Sequence[Passage]:
        """The passages of the selected turn, or else of the newest."""
        turn = self.turn
        return self._chat.store.passages(turn.id) if turn else ()

    @property
    def engine(self) -> Engine | None:
        """The loaded model."""
        return self._host.services.engine.engine

    @property
    def state(self) -> Mapping[str, Any]:
        """The plugin's data of the chat."""
        return self.conversation.plugin_data.get(self.plugin, {})

    def set_state(self, **values: Any) -> None:
        """Save values in the plugin's data of the chat."""
        json.dumps(values, allow_nan=False)  # to fail where the value came from
        self._host.call_in_ui_thread(partial(self._host.set_plugin_data, self, values))

    def notify(self, text: str, *, warning: bool = False) -> None:
        """Show a toast with the plugin's name."""
        self._host.call_in_ui_thread(
            partial(
                self._chat.view.notify,
                escape_controls(text)[:MAX_NOTICE_LENGTH],
                title=one_line(self.plugin, 40),
                severity="warning" if warning else "information",
                markup=False,
            )
        )

    def show_status(self, text: str) -> None:
        """Show a short text in the status bar."""
        _require_type(text, str)
        self._host.call_in_ui_thread(partial(self._host.set_status, self.plugin, text))

    def insert_text(self, text: str) -> None:
        """Insert a text into the composer."""
        self._host.call_in_ui_thread(partial(self._insert_text, sanitise(text)))

    def send(self, text: str) -> None:
        """Send a message."""
        _require_type(text, str)
        self._host.call_in_ui_thread(partial(self._chat.turns.send_message, text))

    def read_message(self, text: str) -> tuple[str, tuple[PreparedImage, ...]]:
        """Return what the composer would send for a text."""
        _require_type(text, str)
        whole = self._chat.composer.message_of(text).read()
        return whole.text, whole.images

    def set_chat(
        self,
        *,
        system: str | None = None,
        sampling: Sampling | None = None,
        tools: Sequence[str] = (),
    ) -> None:
        """Change the system prompt, the sampling or the offered tools."""
        _require_type(system, str, type(None))
        _require_type(sampling, Sampling, type(None))
        self._host.call_in_ui_thread(partial(self._set_chat, system, sampling, _names(tools)))

    def new_chat(
        self,
        *,
        system: str = "",
        sampling: Sampling | None = None,
        state: Mapping[str, Any] | None = None,
        model: str = "",
        message: str = "",
        tools: Sequence[str] = (),
    ) -> None:
        """Open a new chat, incognito if the open one is."""
        _require_type(system, str)
        _require_type(sampling, Sampling, type(None))
        _require_type(model, str)
        _require_type(message, str)
        values = dict(state or {})
        json.dumps(values, allow_nan=False)
        self._host.call_in_ui_thread(
            partial(self._new_chat, system or None, sampling, values, model, message, _names(tools))
        )

    def open_screen(self, name: str, argument: str = "") -> None:
        """Show a plugin's screen."""
        _require_type(argument, str)
        self._host.call_in_ui_thread(partial(self._host.regions.open_screen, name, argument))

    def show_images(self, images: Sequence[PreparedImage]) -> None:
        """Show images over the chat."""
        for each in images:
            _require_type(each, PreparedImage)
        if images:
            self._host.call_in_ui_thread(partial(self._show_images, tuple(images)))

    def open_panel(self, name: str) -> None:
        """Open or close a plugin's panel."""
        self._host.call_in_ui_thread(partial(self._host.regions.toggle_panel, name))

    def side_chats(self, report: Callable[[str], None]) -> InMemorySideChats:
        """Return chats beside the open one."""
        return self._host.services.side_chats(report)

    @contextmanager
    def progress(self, title: str) -> Iterator[UiProgressReporter]:
        """Show the progress of a long task."""
        work = UiProgressReporter(title, self._host.closing)
        self._host.call_in_ui_thread(partial(self._host.show_progress, work))
        try:
            yield work
        finally:
            self._host.call_in_ui_thread(partial(self._host.hide_progress, work))

    def _show_images(self, images: tuple[PreparedImage, ...]) -> None:
        contents = {each.image.sha256: each.content for each in images}
        self._chat.view.app.push_screen(
            ImageScreen(
                [each.image for each in images],
                0,
                contents.__getitem__,
                self._host.services.graphics,
                None if self._chat.incognito else self._host.services.opened_images,
            )
        )

    def _insert_text(self, text: str) -> None:
        self._chat.composer.insert(text)
        self._chat.view.focus_composer()

    def _set_chat(
        self, system: str | None, sampling: Sampling | None, tools: tuple[str, ...]
    ) -> None:
        if system is not None:
            self._chat.edits.set_system(system)
        if sampling is not None:
            self._chat.edits.set_sampling(sampling)
        if tools:
            chosen = self._chat.conversation.tools
            were_on = ToolOptions(self._host.services.config.tools).is_on(chosen)
            self._chat.edits.set_tools(chosen.with_offers(tools, were_on=were_on))

    async def _new_chat(
        self,
        system: str | None,
        sampling: Sampling | None,
        state: Mapping[str, Any],
        model: str,
        message: str,
        tools: tuple[str, ...],
    ) -> None:
        if message:
            self._chat.require_idle()

        async def begin() -> None:
            if model:
                self._host.switch_model(model)
            await self._chat.switch.new_chat(incognito=self._chat.incognito)
            self._set_chat(system, sampling, tools)
            self._chat.edits.set_plugin_data(self.plugin, state)
            self._chat.view.focus_composer()
            if message:
                self._chat.turns.send_message(message)

        await self._chat.switch.leave_chat(begin)


def _names(tools: Sequence[str]) -> tuple[str, ...]:
    for name in tools:
        _require_type(name, str)
    return tuple(tools)


def _require_type(value: object, *kinds: type) -> None:
    if not isinstance(value, kinds):
        raise TypeError(f"{value!r} is not {kinds[0].__name__}")


@dataclass(frozen=True)
class Progress:
    """Progress of a task."""

    done: int = 0
    total: int | None = None
    note: str = ""

    @property
    def fraction(self) -> float | None:
        """Fraction from 0 to 1; None if unknown."""
        if not self.total or self.total < 0:
            return None
        return min(max(self.done / self.total, 0.0), 1.0)


class UiProgressReporter:
    """Progress of a plugin's task; a `chatlm.ProgressReporter`.

    Args:
        title: short description of the task.
        closing: set when chatlm quits, which cancels every task.
    """

    def __init__(self, title: str, closing: threading.Event) -> None:
        self.title = one_line(title, 40)
        self.progress = Progress()
        self._closing = closing
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether the user cancelled it or chatlm is quitting."""
        return self._cancelled.is_set() or self._closing.is_set()

    def cancel(self) -> None:
        """Cancel it at its next step."""
        self._cancelled.set()

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Update the progress; cheap enough to call for every item."""
        self.progress = Progress(
            int(done), None if total is None else int(total), one_line(note, 60)
        )
