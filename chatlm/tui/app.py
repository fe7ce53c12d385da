"""The Textual app: start-up, background work, signals and quitting."""

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

from chatlm.chat.deletion import empty_trash
from chatlm.chat.first_start import FirstOffer, remember_choice, unfinished_choice
from chatlm.chat.pasted_images import PastedImages
from chatlm.chat.resources import Resources
from chatlm.config import paths
from chatlm.config.config import Config
from chatlm.errors import ChatlmError, StoreError, UsageError
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.text import escape_controls, one_line
from chatlm.tui import commands
from chatlm.tui.chat_screen import ChatScreen
from chatlm.tui.engine_loader import EngineChanged, EngineLoader, EngineState, Loading, OpenEngine
from chatlm.tui.graphics import Graphics
from chatlm.tui.plugin_ui.isolation import GuardedApp
from chatlm.tui.plugin_ui.registrations import Registrations
from chatlm.tui.screens.first_start import FirstStart
from chatlm.tui.screens.settings import SettingsScreen, ThemePicker
from chatlm.tui.services import Services
from chatlm.tui.themes import CHANGED_THEMES, THEMES
from chatlm.types.replies import utc_now

log = logging.getLogger(__name__)

QUIT_SECONDS = 1.2
"""Seconds that quitting waits for a running reply to be stored and for plugin commands."""

QUIT_AGAIN_SECONDS = 3.0
"""Seconds within which a second Ctrl-C quits."""

QUIT_HOOK_SECONDS = 0.5
"""Seconds that quitting waits for the hooks of a running turn."""

TRASH_RETENTION = timedelta(days=7)
"""How long a deleted chat can be restored."""

TITLE_WIDTH = 80
PUSH_TITLE = "\x1b[22;2t"
POP_TITLE = "\x1b[23;2t"


class ChatApp(GuardedApp):
    """The terminal app of chatlm.

    Args:
        store: the saved chats.
        open_engine: opens a model; runs in a thread of its own.
        plugins: the loaded plugins.
        config: the user's settings.
        incognito: start with a chat that is not saved.
        conversation_id: the chat to open at the start.
        project: the folder of the project to open at the start; empty for none.
        notices: warnings shown at the start.
        offer_models: says what a newcomer could download; None where nobody is to be asked.
        resumes_downloads: whether to resume the download that a newcomer chose earlier.
        graphics: how the terminal draws images.
        clock: monotonic seconds.
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
        project: str = "",
        notices: Sequence[str] = (),
        offer_models: Callable[[], FirstOffer] | None = None,
        resumes_downloads: bool = False,
        graphics: Graphics = "text",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        for theme in (*THEMES, *CHANGED_THEMES):
            self.register_theme(theme)
        self._offer_models = offer_models
        self._resumes_downloads = resumes_downloads
        plugins = plugins or PluginHost()
        self.services = Services(
            store,
            plugins,
            config or Config(),
            open_engine,
            EngineLoader(open_engine, lambda state: self.post_message(EngineChanged(state))),
            self._publish_engine_state,
            clock,
            resources=Resources.of_plugins(plugins),
            graphics=graphics,
            pasted_images=PastedImages(paths.data_dir() / "pasted"),
        )
        registrations = Registrations(plugins)
        self._quits_until = 0.0
        """Until when another Ctrl-C quits, in monotonic seconds."""
        self._startup_notices = [*notices, *registrations.assign_keys(self.services.config.keys)]
        self.set_keymap(commands.user_keymap())
        self.chat_screen = ChatScreen(
            self.services,
            registrations,
            self,
            start_background_work=self._start_background_work,
            incognito=incognito,
            conversation_id=conversation_id,
            project=project,
        )

    def on_mount(self) -> None:
        """Draw the screen before anything is loaded."""
        self._apply_appearance()
        self._write_to_terminal(PUSH_TITLE)
        self.push_screen(self.chat_screen)
        for note in self._startup_notices:
            self.notify(escape_controls(note), severity="warning", markup=False, timeout=15)
        self._install_signal_handlers()
        self.services.set_engine_state(Loading(self.services.config.model))
        if self._offer_models is not None:
            write = self.chat_screen.chat.composer.insert
            self.push_screen(FirstStart(self._offer_models, write), self._download_first)

    def _download_first(self, name: str | None) -> None:
        """Download what a newcomer chose, and ask nobody again; who just types is asked again."""
        if name is None:
            self.notify(
                "/model lists what this machine could run instead of the toy.", markup=False
            )
            return
        remember_choice(name)
        if name:
            self.chat_screen.download_line.start(name)

    def _start_background_work(self) -> None:
        """Load the model and empty the trash, after the first paint."""
        self.services.load_engine(self.services.config.model)
        self.run_worker(self._empty_trash, thread=True, group="trash")
        if self._resumes_downloads and (name := unfinished_choice()):
            self.chat_screen.download_line.start(name)

    def _apply_appearance(self) -> None:
        appearance = self.chat_screen.settings_actions
        appearance.set_reduced_motion(reduced=self.services.config.reduced_motion)
        try:
            appearance.set_theme(self.services.config.theme)
        except UsageError as error:
            self.notify(escape_controls(str(error)), severity="warning", markup=False)

    def _empty_trash(self) -> None:
        try:
            services = self.services
            empty_trash(services.store, utc_now() - TRASH_RETENTION, services.plugins)
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
        """Stop all threads."""
        self.services.engine.cancel()
        self.chat_screen.chat.turns.stop()

    async def action_quit(self) -> None:
        """Quit, unless the user wants to stay in an incognito chat."""
        await self.chat_screen.chat.switch.leave_chat(self._quit)

    async def _quit(self) -> None:
        """Save the running reply and the draft, then exit."""
        self.chat_screen.chat.turns.stop()
        self.chat_screen.plugin_actions.close()
        self.services.plugins.finish_within(QUIT_HOOK_SECONDS)
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

    def action_help_quit(self) -> None:
        """Quit on the second Ctrl-C; say so on the first."""
        now = time.monotonic()
        if now < self._quits_until:
            self.call_later(self.action_quit)
            return
        self._quits_until = now + QUIT_AGAIN_SECONDS
        self.notify("ctrl+c again quits.", markup=False, timeout=QUIT_AGAIN_SECONDS)

    def action_leave_plugin(self) -> None:
        """Close the topmost plugin screen."""
        self.chat_screen.plugin_actions.regions.close_screen()

    def watch_sub_title(self, title: str) -> None:
        """Show the chat's title in the terminal's title."""
        self._write_to_terminal(f"\x1b]2;{one_line(f'{title} · {self.TITLE}', TITLE_WIDTH)}\x07")

    def _write_to_terminal(self, sequence: str) -> None:
        if self._driver is not None and not self.is_headless:
            self._driver.write(sequence)

    def _install_signal_handlers(self) -> None:
        """Save the running reply on SIGTERM, SIGINT and SIGHUP."""
        if self.is_headless or sys.platform == "win32":
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: self.call_next(self._quit))
        loop.add_signal_handler(signal.SIGINT, self._handle_sigint)
        signal.signal(signal.SIGHUP, self._handle_sighup)

    def _handle_sigint(self) -> None:
        """Quit; a signal that comes during a hook is taken for the plugin's, as no key sends it."""
        call = self.services.plugins.running_call
        if call is None:
            self.call_next(self._quit)
            return
        text = f"SIGINT came while the plugin {call.plugin} ran {call.hook}; it was ignored."
        log.warning("%s", text)
        self.notify(text, severity="warning", markup=False)

    def _handle_sighup(self, signum: int, frame: object) -> None:
        """Exit without Textual: with no terminal, its writer blocks and its reader spins."""
        from textual.drivers.linux_driver import LinuxDriver

        if isinstance(self._driver, LinuxDriver):
            self._driver.exit_event.set()
        self.services.plugins.finish_within(QUIT_HOOK_SECONDS)
        self.chat_screen.chat.turns.stop_and_wait(QUIT_SECONDS)
        os._exit(128 + signum)
