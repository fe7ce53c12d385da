"""Run plugin commands in threads; work line."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from textual.content import Content
from textual.widget import Widget

from chatlm.errors import Cancelled, ChatlmError, StoreError
from chatlm.plugin_host.ui_api import SlashCommand
from chatlm.text import escape_controls
from chatlm.tui import commands
from chatlm.tui.plugin_ui.offers import Registration, Registrations
from chatlm.tui.plugin_ui.regions import PluginRegions
from chatlm.tui.plugin_ui.ui import PluginUi, UiProgressReporter

if TYPE_CHECKING:
    from chatlm.tui.chat_screen import ChatScreen


log = logging.getLogger(__name__)


FAULT_SECONDS = 15.0
"""How long a plugin's failure can be read."""


class PluginActions:
    """What a plugin does wrong is its fault alone, and is told.

    Args:
        screen: whose chat it is.
        offers: what the plugins offer.
    """

    def __init__(self, screen: ChatScreen, offers: Registrations) -> None:
        self._screen = screen
        self._plugins = screen.owner.plugins
        self._offers = offers
        self.regions = PluginRegions(screen, offers)
        self._threads: list[threading.Thread] = []
        self._lines: list[ProgressLine] = []
        self._statuses: dict[str, str] = {}
        """What each plugin says in the status bar."""
        self._told: int | None = None
        """Of which switch of the chat the plugins were told last; None before they began."""
        self.closing = threading.Event()
        """Set when chatlm ends, which cancels every work."""

    @property
    def busy(self) -> bool:
        """Whether a command is running, or what broke is still on the screen."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        return bool(self._threads) or self.regions.busy

    def begin(self) -> None:
        """Tell the plugins that the chat is on the screen."""
        self._tell_plugins("screen_opened")
        self._tell_shown()

    def chat_shown(self) -> None:
        """Tell the plugins that another chat is on the screen, once for each."""
        if self._told not in (None, self._screen.chat.switches):
            self._tell_shown()

    def run(self, name: str, argument: str) -> None:
        """Run a command, or show or hide a panel.

        Raises:
            UsageError: the plugin is left out.
        """
        if name in self._offers.panels:
            self.regions.toggle_panel(name)
            return
        offer = self._offers.commands[name]
        self._offers.refuse_left_out(offer.plugin)
        work = partial(self._run, offer, argument)
        thread = threading.Thread(target=work, name=f"chatlm-/{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> bool:
        """Cancel the work that was begun last; False when there is none to cancel."""
        lines = [line for line in self._lines if not line.work.cancelled]
        if lines:
            lines[-1].work.cancel()
            lines[-1].refresh()
        return bool(lines)

    def close(self) -> None:
        """Cancel all that runs."""
        self.closing.set()
        self._screen.owner.release_all()

    def show_work(self, work: UiProgressReporter) -> None:
        """Show a line for a work."""
        self._lines.append(ProgressLine(work))
        self._screen.mount(self._lines[-1], before="StatusBar")

    def end_work(self, work: UiProgressReporter) -> None:
        """Take the line of a work away."""
        for line in [line for line in self._lines if line.work is work]:
            self._lines.remove(line)
            line.remove()

    def show_status(self, plugin: str, text: str) -> None:
        """Let a plugin say something in the status bar."""
        self._statuses[plugin] = text
        self.refresh_status()

    def refresh_status(self) -> None:
        """Show what plugins say in the status bar; those that are off in the chat say nothing."""
        said = {name: text for name, text in self._statuses.items() if text}
        if said:
            with suppress(StoreError):  # what cannot be read is told where it is needed
                for name in self._screen.chat.conversation.without:
                    said.pop(name, None)
        self._screen.show_words(tuple(said.values()))

    def tell_faults(self) -> None:
        """Say what failed since the last time."""
        for fault in self._plugins.take_faults():
            text = escape_controls(str(fault))
            self._screen.chat.notify(text, severity="error", markup=False, timeout=FAULT_SECONDS)

    def soon(self, do: Callable[[], Awaitable[object] | object]) -> None:
        """Do something in the screen's thread, asked for in any."""
        with suppress(RuntimeError):  # chatlm has ended
            self._screen.owner.call_later(self._screen.attempt, do, "what a plugin asked for")

    def _tell_shown(self) -> None:
        self._told = self._screen.chat.switches
        self._tell_plugins("chat_shown")
        self.tell_faults()

    def _tell_plugins(self, hook: str) -> None:
        for _ in self._plugins.offer(hook, lambda name: {"ui": PluginUi(name, self._screen)}):
            pass

    def _run(self, offer: Registration[SlashCommand], argument: str) -> None:
        """Run a command, in its thread."""
        plugin, where = offer.plugin, f"/{offer.thing.name}"
        try:
            offer.thing.run(PluginUi(plugin, self._screen), argument)
        except Cancelled:
            log.info("%s of %s: stopped", where, plugin)
        except ChatlmError as error:
            self.soon(partial(self._screen.chat.toast, error))
        except BaseException as error:  # a plugin may fail in any way
            self._plugins.failed(plugin, where, error)
            self.soon(self.tell_faults)
        else:
            self._plugins.went_well(plugin, where)


REFRESHES_PER_SECOND = 10


BAR_WIDTH = 20


class ProgressLine(Widget):
    """Title, bar, note, and the key that cancels.

    Args:
        work: looked at from time to time, since it is written in another thread.
    """

    DEFAULT_CSS = """
    WorkLine { height: 1; padding: 0 1; background: $primary 15%; }
    """

    def __init__(self, work: UiProgressReporter) -> None:
        super().__init__()
        self.work = work
        self.auto_refresh = 1 / REFRESHES_PER_SECOND

    def render(self) -> Content:
        """The line, exactly as wide as there is room."""
        end = "ending" if self.work.cancelled else f"{commands.key_of('stop')} cancels"
        width = self.content_size.width - len(end) - 2
        start = Content.assemble((self.work.title, "bold"), "  ", *self._progress())
        return Content.assemble(
            start.truncate(width, ellipsis=True, pad=True), "  ", (end, "$text-primary")
        )

    def _progress(self) -> list[str | tuple[str, str]]:
        stand = self.work.stand
        if stand.share is None:
            return [f"{stand.done:,}  " if stand.done else "", (stand.note, "$text-muted")]
        full = round(stand.share * BAR_WIDTH)
        return [
            ("━" * full, "$primary"),
            ("━" * (BAR_WIDTH - full), "$foreground 20%"),
            f"  {100 * stand.share:.0f} %  ",
            (stand.note, "$text-muted"),
        ]
