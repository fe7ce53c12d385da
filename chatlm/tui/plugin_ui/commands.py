"""Run plugin commands and screen hooks in threads; show progress and what hangs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from textual.content import Content
from textual.notifications import SeverityLevel
from textual.widget import Widget

from chatlm.errors import Cancelled, ChatlmError
from chatlm.plugin_host.ui_api import SlashCommand
from chatlm.text import escape_controls, one_line
from chatlm.tui import commands
from chatlm.tui.chat.controller import ChatController
from chatlm.tui.chat.status import StatusBar
from chatlm.tui.plugin_ui.isolation import GuardedApp
from chatlm.tui.plugin_ui.regions import PluginRegions
from chatlm.tui.plugin_ui.registrations import Registration, Registrations
from chatlm.tui.plugin_ui.ui import PluginUi, UiProgressReporter
from chatlm.tui.services import Services
from chatlm.tui.widgets.hints import hint

log = logging.getLogger(__name__)


FAULT_SECONDS = 15.0
"""Seconds that a plugin's failure is shown."""


@dataclass
class HookCall:
    """A call of a screen hook, until all that the plugins asked for in it is done."""

    hook: str
    only: frozenset[str] | None = None
    """The plugins that are called; None for all."""
    uis: dict[str, PluginUi] = field(default_factory=dict)
    """What each plugin was called with."""
    outdated: set[str] = field(default_factory=set)
    """Plugins whose data of the chat was changed by something else during the call."""


class PluginActions:
    """Commands and screen hooks of plugins; their failures are isolated and shown.

    Args:
        services: shared services.
        registrations: what the plugins offer.
        app: isolates what plugins draw.
        chat: the open chat.
        status_bar: shows the plugins' statuses.
        switch_model: loads another model.
    """

    def __init__(
        self,
        services: Services,
        registrations: Registrations,
        app: GuardedApp,
        chat: ChatController,
        status_bar: StatusBar,
        *,
        switch_model: Callable[[str], None],
    ) -> None:
        self.services = services
        self.chat = chat
        self.switch_model = switch_model
        self._registrations = registrations
        self._app = app
        self._status_bar = status_bar
        self.regions = PluginRegions(
            services.plugins,
            registrations,
            app,
            chat,
            create_ui=self._create_ui,
            call_in_ui_thread=self.call_in_ui_thread,
            show_faults=self.show_faults,
        )
        self._threads: list[threading.Thread] = []
        self._hook_calls = ThreadPoolExecutor(1, "chatlm-screen-hooks")
        """Calls the screen hooks in order, so that a slow one does not hold the screen."""
        self._last_hook_call: Future[None] | None = None
        self._open_hook_calls: list[HookCall] = []
        self._progress_lines: list[ProgressLine] = []
        self._statuses: dict[str, str] = {}
        """Status texts of plugins."""
        self._notified_switch_count: int | None = None
        """The last chat switch announced to plugins; None before they are started."""
        self.closing = threading.Event()
        """Set when chatlm quits, which cancels all plugin work."""

    @property
    def busy(self) -> bool:
        """Whether a command or a hook is running, or a broken region is still on the screen."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        calls = self._last_hook_call is not None and not self._last_hook_call.done()
        return calls or bool(self._threads) or self.regions.busy

    def start(self) -> None:
        """Call the hooks for the first chat."""
        self._call_hook(HookCall("screen_opened"))
        self._call_chat_shown()

    def notify_chat_shown(self) -> None:
        """Call `chat_shown` once for each opened chat."""
        if self._notified_switch_count not in (None, self.chat.switch.count):
            self._call_chat_shown()

    def run_command(self, name: str, argument: str) -> None:
        """Run a command, or show or hide a panel.

        Raises:
            UsageError: the plugin is disabled after failures.
        """
        if name in self._registrations.panels:
            self.regions.toggle_panel(name)
            return
        offer = self._registrations.commands[name]
        self._registrations.require_enabled(offer.plugin)
        work = partial(self._run_in_thread, offer, argument)
        thread = threading.Thread(target=work, name=f"chatlm-/{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def cancel_latest(self) -> bool:
        """Cancel the newest work; return False if there is none."""
        lines = [line for line in self._progress_lines if not line.reporter.cancelled]
        if lines:
            lines[-1].reporter.cancel()
            lines[-1].refresh()
        return bool(lines)

    def abandon_hook(self) -> bool:
        """Abandon the hanging hook; return False if no hook hangs."""
        abandoned = self.services.plugins.abandon_hanging_call()
        if abandoned:
            self.show_hanging_hook()
            self.show_faults()
        return abandoned

    def show_hanging_hook(self) -> None:
        """Name the hook that has not returned for a while in the status bar."""
        call = self.services.plugins.hanging_call
        if call is None:
            self._status_bar.hanging = Content()
            return
        names = f"{one_line(call.plugin, 64)} in {one_line(call.hook, 64)}"
        self._status_bar.hanging = Content.assemble(
            (f"waiting for the plugin {names} · {call.elapsed:.0f} s · ", "$text-warning"),
            hint(commands.key_of("stop"), "continue without it"),
        )

    def close(self) -> None:
        """Cancel all work."""
        self.closing.set()
        self._hook_calls.shutdown(wait=False, cancel_futures=True)
        self._app.release_plugin_widgets()

    def show_progress(self, reporter: UiProgressReporter) -> None:
        """Show a progress line."""
        self._progress_lines.append(ProgressLine(reporter))
        self.chat.view.screen.mount(self._progress_lines[-1], before="StatusBar")

    def hide_progress(self, reporter: UiProgressReporter) -> None:
        """Remove a progress line."""
        for line in [line for line in self._progress_lines if line.reporter is reporter]:
            self._progress_lines.remove(line)
            line.remove()

    def set_plugin_data(self, ui: PluginUi, values: Mapping[str, Any]) -> None:
        """Change a plugin's data of the chat; a hook that may have read it before is outdated."""
        self.chat.edits.set_plugin_data(ui.plugin, values)
        for call in self._open_hook_calls:
            if call.uis.get(ui.plugin, ui) is not ui:
                call.outdated.add(ui.plugin)

    def set_status(self, plugin: str, text: str) -> None:
        """Set a plugin's text in the status bar."""
        self._statuses[plugin] = text
        self.refresh_status()

    def refresh_status(self) -> None:
        """Show the status texts of the plugins that are enabled in the chat."""
        texts = {name: text for name, text in self._statuses.items() if text}
        if texts:
            for name in self.chat.conversation.disabled_plugins:
                texts.pop(name, None)
        self._status_bar.plugin_statuses = tuple(texts.values())

    def show_faults(self) -> None:
        """Show new failures of plugins."""
        for fault in self.services.plugins.take_faults():
            text = escape_controls(str(fault))
            severity: SeverityLevel = "warning" if fault.kind == "slow" else "error"
            self.chat.view.notify(text, severity=severity, markup=False, timeout=FAULT_SECONDS)

    def call_in_ui_thread(self, callback: Callable[[], Awaitable[object] | object]) -> None:
        """Run a callback in the UI thread; callable from any thread."""
        view = self.chat.view  # in order with the events of the running turn, which it gets too
        with suppress(RuntimeError):  # chatlm has ended
            view.call_later(view.run_reporting_errors, callback, "what a plugin asked for")

    def _create_ui(self, plugin: str) -> PluginUi:
        return PluginUi(plugin, self)

    def _call_chat_shown(self) -> None:
        self._notified_switch_count = self.chat.switch.count
        self._call_hook(HookCall("chat_shown"))

    def _call_hook(self, call: HookCall) -> None:
        """Call a hook of plugins, in a thread."""
        self._open_hook_calls.append(call)
        with suppress(RuntimeError):  # chatlm is quitting
            self._last_hook_call = self._hook_calls.submit(self._call_hook_now, call)

    def _call_hook_now(self, call: HookCall) -> None:
        def make_arguments(plugin: str) -> dict[str, PluginUi]:
            call.uis[plugin] = self._create_ui(plugin)
            return {"ui": call.uis[plugin]}

        plugins = self.services.plugins
        for _ in plugins.call_each(call.hook, make_arguments, only=call.only):
            pass
        self.call_in_ui_thread(self.show_faults)
        self.call_in_ui_thread(partial(self._end_hook_call, call))

    def _end_hook_call(self, call: HookCall) -> None:
        """Call `chat_shown` again of plugins whose data has changed since they may have read it.

        Otherwise what they showed of it would stay on the screen.
        """
        self._open_hook_calls.remove(call)
        if call.hook == "chat_shown" and call.outdated:
            self._call_hook(HookCall(call.hook, frozenset(call.outdated)))

    def _run_in_thread(self, registration: Registration[SlashCommand], argument: str) -> None:
        """Run a command in the current thread."""
        plugin, where = registration.plugin, f"/{registration.item.name}"
        try:
            registration.item.run(self._create_ui(plugin), argument)
        except Cancelled:
            log.info("%s of %s: stopped", where, plugin)
        except ChatlmError as error:
            self.call_in_ui_thread(partial(self.chat.view.toast, error))
        except BaseException as error:  # a plugin may fail in any way
            self.services.plugins.record_failure(plugin, where, error)
            self.call_in_ui_thread(self.show_faults)
        else:
            self.services.plugins.record_success(plugin, where)


REFRESHES_PER_SECOND = 10


BAR_WIDTH = 20


class ProgressLine(Widget):
    """One line of progress: title, bar, note and the key that cancels.

    Args:
        reporter: polled, since another thread updates it.
    """

    DEFAULT_CSS = """
    ProgressLine { height: 1; padding: 0 1; background: $primary 15%; }
    """

    def __init__(self, reporter: UiProgressReporter) -> None:
        super().__init__()
        self.reporter = reporter
        self.auto_refresh = 1 / REFRESHES_PER_SECOND

    def render(self) -> Content:
        """Render the line at the full width."""
        stop = hint(commands.key_of("stop"), "cancel")
        end = Content("ending") if self.reporter.cancelled else stop
        width = self.content_size.width - end.cell_length - 2
        start = Content.assemble((self.reporter.title, "bold"), "  ", *self._progress_parts())
        return Content.assemble(start.truncate(width, ellipsis=True, pad=True), "  ", end)

    def _progress_parts(self) -> list[str | tuple[str, str]]:
        stand = self.reporter.progress
        if stand.fraction is None:
            return [f"{stand.done:,}  " if stand.done else "", (stand.note, "$text-muted")]
        full = round(stand.fraction * BAR_WIDTH)
        return [
            ("━" * full, "$primary"),
            ("━" * (BAR_WIDTH - full), "$foreground 20%"),
            f"  {100 * stand.fraction:.0f} %  ",
            (stand.note, "$text-muted"),
        ]
