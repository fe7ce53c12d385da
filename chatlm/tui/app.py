"""The program on the screen: owns engine, theme and the way out, and knows no turn."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import ClassVar

from textual import on
from textual.binding import BindingType
from textual.message import Message
from textual.reactive import reactive

from chatlm.config.config import Config
from chatlm.errors import ChatlmError, StoreError, UsageError
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.text import escape_controls, one_line
from chatlm.tui import commands
from chatlm.tui.chat_screen import ChatScreen
from chatlm.tui.engine_loader import EngineChanged, EngineLoader, EngineState, Loading, OpenEngine
from chatlm.tui.plugin_ui.isolation import GuardedApp
from chatlm.tui.plugin_ui.offers import Registrations
from chatlm.tui.screens.settings import SettingsScreen, ThemePicker
from chatlm.tui.services import Services
from chatlm.types.messages import utc_now

log = logging.getLogger(__name__)

QUIT_SECONDS = 3.0
"""How long the way out waits for a running reply to be stored, and for commands of plugins."""

TRASH_RETENTION = timedelta(days=7)
"""How long a deleted chat can be brought back."""

TITLE_WIDTH = 80
PUSH_TITLE = "\x1b[22;2t"
POP_TITLE = "\x1b[23;2t"


class ChatApp(GuardedApp):
    """chatlm in a terminal.

    Args:
        store: the saved chats.
        open_engine: opens a model; runs in a thread of its own.
        plugins: whose hooks the sessions call.
        config: the person's settings.
        incognito: begin with a chat that is not saved.
        conversation_id: open this chat at once.
        notices: what the person must know at once.
        clock: seconds that only grow; tests give a still one.
    """

    TITLE = "chatlm"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [*commands.bindings(commands.APP, priority=True)]

    engine_state: reactive[EngineState] = reactive[EngineState](Loading(""))

    def __init__(
        self,
        store: Store,
        open_engine: OpenEngine,
        *,
        plugins: PluginHost | None = None,
        config: Config | None = None,
        incognito: bool = False,
        conversation_id: int | None = None,
        notices: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        plugins = plugins or PluginHost()
        self.services = Services(
            store,
            plugins,
            config or Config(),
            open_engine,
            EngineLoader(open_engine, lambda state: self.post_message(EngineChanged(state))),
            self._publish_engine_state,
            clock,
        )
        registrations = Registrations(plugins)
        self._startup_notices = [*notices, *registrations.assign_keys(self.services.config.keys)]
        self.set_keymap(commands.user_keymap())
        self.chat_screen = ChatScreen(
            self.services,
            registrations,
            self,
            start_background_work=self._start_background_work,
            incognito=incognito,
            conversation_id=conversation_id,
        )

    def on_mount(self) -> None:
        """Draw first, load then."""
        self._apply_appearance()
        self._write_to_terminal(PUSH_TITLE)
        self.push_screen(self.chat_screen)
        for note in self._startup_notices:
            self.notify(escape_controls(note), severity="warning", markup=False, timeout=15)
        self._install_signal_handlers()
        self.services.set_engine_state(Loading(self.services.config.model))

    def _start_background_work(self) -> None:
        """Start what takes time, which would hold up the first picture of the screen."""
        self.services.load_engine(self.services.config.model)
        self.run_worker(self._empty_trash, thread=True, group="trash")

    def _apply_appearance(self) -> None:
        appearance = self.chat_screen.settings_actions
        appearance.set_reduced_motion(reduced=self.services.config.reduced_motion)
        try:
            appearance.set_theme(self.services.config.theme)
        except UsageError as error:
            self.notify(escape_controls(str(error)), severity="warning", markup=False)

    def _empty_trash(self) -> None:
        try:
            self.services.store.empty_trash(utc_now() - TRASH_RETENTION)
        except StoreError as error:
            log.error("trash not emptied: %s", error)

    def _publish_engine_state(self, state: EngineState) -> None:
        self.engine_state = state

    @on(EngineChanged)
    def _show_engine(self, message: EngineChanged) -> None:
        self.services.set_engine_state(message.state)

    @on(SettingsScreen.SamplingChanged)
    @on(SettingsScreen.SystemChanged)
    @on(SettingsScreen.DefaultSamplingSaved)
    @on(SettingsScreen.DefaultSystemSaved)
    @on(SettingsScreen.ModelRequested)
    @on(ThemePicker.ThemeChosen)
    @on(ThemePicker.MotionChosen)
    def _apply_settings(self, message: Message) -> None:
        try:
            self.chat_screen.settings_actions.apply(message)
        except ChatlmError as error:
            self.chat_screen.chat.view.toast(error)

    def on_unmount(self) -> None:
        """Whatever closes the screen, no thread goes on."""
        self.services.engine.cancel()
        self.chat_screen.chat.stop()

    async def action_quit(self) -> None:
        """Leave, unless the person wants to stay in an incognito chat."""
        await self.chat_screen.chat.leave_chat(self._quit)

    async def _quit(self) -> None:
        """Store what is being said and typed, then leave."""
        self.chat_screen.chat.stop()
        self.chat_screen.plugin_actions.close()
        deadline = time.monotonic() + QUIT_SECONDS
        while self.chat_screen.chat.busy and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self.chat_screen.chat.save_draft()
        while self.chat_screen.chat.has_pending_writes and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        while self.chat_screen.plugin_actions.busy and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self._write_to_terminal(POP_TITLE)
        self.exit()

    def action_leave_plugin(self) -> None:
        """Close the plugin's screen that is on top."""
        self.chat_screen.plugin_actions.regions.close_screen()

    def watch_sub_title(self, title: str) -> None:
        """Name the chat in the terminal's title."""
        self._write_to_terminal(f"\x1b]2;{one_line(f'{title} · {self.TITLE}', TITLE_WIDTH)}\x07")

    def _write_to_terminal(self, sequence: str) -> None:
        if self._driver is not None and not self.is_headless:
            self._driver.write(sequence)

    def _install_signal_handlers(self) -> None:
        """A closed terminal or a polite kill stores the running reply too."""
        if self.is_headless or sys.platform == "win32":
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: self.call_next(self._quit))
        signal.signal(signal.SIGHUP, self._handle_sighup)

    def _handle_sighup(self, signum: int, frame: object) -> None:
        """End without Textual: with no terminal its writer waits for ever and its reader spins."""
        from textual.drivers.linux_driver import LinuxDriver

        if isinstance(self._driver, LinuxDriver):
            self._driver.exit_event.set()
        self.chat_screen.chat.stop_and_wait(QUIT_SECONDS)
        os._exit(128 + signum)
