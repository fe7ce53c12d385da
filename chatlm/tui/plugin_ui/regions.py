"""Open and close the panels and screens of plugins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from textual.binding import Binding, BindingsMap
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets._toast import ToastRack

from chatlm.errors import UsageError
from chatlm.plugin_host.host import PluginHost
from chatlm.text import one_line
from chatlm.tui import commands
from chatlm.tui.chat.controller import ChatController
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.plugin_ui import isolation
from chatlm.tui.plugin_ui.isolation import GuardedApp, PluginRegion
from chatlm.tui.plugin_ui.registrations import Registrations
from chatlm.tui.plugin_ui.ui import PluginUi
from chatlm.tui.widgets.hints import hint

W = TypeVar("W", bound=Widget)


MIN_WIDTH_FOR_SIDE_PANEL = 100
"""Columns below which a panel covers the transcript."""

TOAST_WIDTH = 60
"""Columns of the widest toast."""


class PluginRegions:
    """Plugin panels, one at a time, and plugin screens.

    Args:
        plugins: records failures and successes.
        registrations: what the plugins offer.
        app: isolates what plugins draw.
        chat: the open chat.
        create_ui: returns the `Ui` of a plugin.
        call_in_ui_thread: runs something in the UI thread, from any thread.
        show_faults: shows new failures of plugins.
    """

    def __init__(
        self,
        plugins: PluginHost,
        registrations: Registrations,
        app: GuardedApp,
        chat: ChatController,
        *,
        create_ui: Callable[[str], PluginUi],
        call_in_ui_thread: Callable[[Callable[[], object]], None],
        show_faults: Callable[[], None],
    ) -> None:
        self._plugins = plugins
        self._registrations = registrations
        self._app = app
        self._chat = chat
        self._create_ui = create_ui
        self._call_in_ui_thread = call_in_ui_thread
        self._show_faults = show_faults
        self._panel_name = ""
        """Name of the open panel."""
        self.panel: PluginPanel | None = None
        """The open panel."""
        self.selected_turn_id: int | None = None
        """Id of the selected turn; None for the newest."""
        self._broken_regions: set[PluginRegion] = set()
        """Broken regions still on the screen."""

    @property
    def busy(self) -> bool:
        """Whether a broken region is still on the screen."""
        return bool(self._broken_regions)

    def toggle_panel(self, name: str) -> None:
        """Open a panel in place of any other, or close it if it is open.

        Raises:
            UsageError: the panel is unknown or its plugin is disabled.
        """
        offer = self._registrations.panels.get(name)
        if offer is None:
            raise UsageError(f"Unknown panel {name}")
        shown = self._panel_name if self.panel else ""
        self.close_panel()
        if shown == name:
            return
        self._registrations.require_enabled(offer.plugin)
        region = PluginRegion(offer.plugin, f"panel {name}", self._handle_failure)
        ui = self._create_ui(offer.plugin)
        widget = self._create_widget(region, partial(offer.item.create_widget, ui), Widget)
        if widget is None:
            return
        closes = commands.key_of(name) or f"/{name}"
        self._panel_name, self.panel = (
            name,
            PluginPanel(offer.item.title, closes, widget),
        )
        self._app.register_region(self.panel, region)
        self.place_panel()
        self._chat.view.query_one("#middle", Horizontal).mount(self.panel)
        self.panel.refresh_widget(ui)

    def close_panel(self) -> None:
        """Close the open panel."""
        panel, self.panel = self.panel, None
        if panel is None:
            return
        if panel.has_focus or panel.has_focus_within:
            self._chat.view.focus_composer()
        panel.display = False
        self._app.release_widget(panel)
        panel.remove()
        self._place_toasts()
        self._record_close(panel)

    def close_covering_panel(self) -> bool:
        """Close a panel that covers the transcript; return False if there is none."""
        covers = self.panel is not None and self.panel.covers_transcript
        if covers:
            self.close_panel()
        return covers

    def open_screen(self, name: str, argument: str = "") -> None:
        """Show a screen.

        Raises:
            UsageError: the screen is unknown or its plugin is disabled.
        """
        offer = self._registrations.screens.get(name)
        if offer is None:
            raise UsageError(f"Unknown screen {name}")
        self._registrations.require_enabled(offer.plugin)
        region = PluginRegion(offer.plugin, f"screen {name}", self._handle_failure)
        ui = self._create_ui(offer.plugin)
        kind: type[Screen[Any]] = Screen
        screen = self._create_widget(region, partial(offer.item.create_screen, ui, argument), kind)
        if screen is None:
            return
        isolation.load_scoped_css(self._app, screen)
        leave = BindingsMap([Binding("escape", "app.leave_plugin", "close", show=False)])
        screen._bindings = BindingsMap.merge([screen._bindings, leave])
        screen._mounted_event.set()  # the program does not wait for a plugin to get ready
        self._app.register_region(screen, region)
        self._app.push_screen(screen, lambda _: self._record_close(screen))

    def close_screen(self) -> None:
        """Close the topmost plugin screen."""
        screen = self._app.screen
        if self._app.region_of(screen):
            self._pop_screen(screen)
            self._record_close(screen)

    def refresh_panel(self, *, chat_changed: bool = True) -> None:
        """Refresh the panel from the chat.

        Args:
            chat_changed: whether the chat has changed, or only the selected turn.
        """
        focused, before = self._chat.view.screen.focused, self.selected_turn_id
        self.selected_turn_id = focused.turn.id if isinstance(focused, TurnView) else None
        if self.panel and (chat_changed or self.selected_turn_id != before):
            plugin = self._registrations.panels[self._panel_name].plugin
            self.panel.refresh_widget(self._create_ui(plugin))

    def place_panel(self) -> None:
        """Place the panel beside or over the transcript."""
        screen = self._chat.view.screen
        if self.panel:
            self.panel.set_overlay(overlay=screen.size.width < MIN_WIDTH_FOR_SIDE_PANEL)
        screen.call_after_refresh(self._place_toasts)

    def _place_toasts(self) -> None:
        """Keep toasts beside the panel, or below its title."""
        screen = self._chat.view.screen
        top, right = 1, 1
        if self.panel and self.panel.covers_transcript:
            top, right = 2, 2
        elif self.panel:
            right = panel_width(self._chat.view.query_one("#middle").size.width) + 2
        free = screen.size.width - right
        width = max(min(free, TOAST_WIDTH), 1)
        for rack in screen.query(ToastRack):
            rack.styles.width = width
            rack.styles.margin = (top, right, 0, max(free - width, 0))

    def _create_widget(
        self, region: PluginRegion, factory: Callable[[], object], kind: type[W]
    ) -> W | None:
        """Return the widget a plugin creates, or None and record a fault."""
        try:
            made = factory()
            if not isinstance(made, kind) or (kind is Widget and isinstance(made, Screen)):
                raise TypeError(
                    f"open returned {type(made).__name__}, not a Textual {kind.__name__}"
                )
            isolation.check_styles(self._app, made)
        except BaseException as error:  # a plugin may fail in any way
            self._handle_failure(region, error)
            return None
        return made

    def _handle_failure(self, region: PluginRegion, error: BaseException) -> None:
        """Record a plugin's failure and close its region."""
        region.broken = True
        self._broken_regions.add(region)
        self._plugins.record_failure(region.plugin, region.description, error)
        self._call_in_ui_thread(partial(self._remove_region, region))

    def _remove_region(self, region: PluginRegion) -> None:
        """Remove a broken region from the screen."""
        stack = list(self._app.screen_stack)
        theirs = [at for at, screen in enumerate(stack) if self._app.region_of(screen) is region]
        for screen in reversed(stack[theirs[0] :] if theirs else []):
            self._pop_screen(screen)
        if self.panel and self._app.region_of(self.panel) is region:
            self.close_panel()
        self._broken_regions.discard(region)
        self._show_faults()

    def _pop_screen(self, screen: Screen[Any]) -> None:
        self._app.release_widget(screen)
        self._app.pop_screen()

    def _record_close(self, widget: Widget) -> None:
        """Record a success when the user closes an unbroken region."""
        region = self._app.region_of(widget)
        if region and not region.broken:
            self._plugins.record_success(region.plugin, region.description)


def panel_width(available: int) -> int:
    """Return the columns of a panel beside the transcript, as `PluginPanel`'s style sets them.

    Args:
        available: columns of both.
    """
    return min(max(available * 40 // 100, 30), 60)


class PluginPanel(VerticalScroll, can_focus=True):
    """The frame of a plugin's panel: title, widget and close hint.

    Args:
        title: shown in the border.
        close_key: the key or command that closes it.
        widget: the plugin's widget.
    """

    DEFAULT_CSS = """
    PluginPanel {
        width: 40%;
        min-width: 30;
        max-width: 60;
        height: 1fr;
        margin: 0 1 0 0;
        padding: 0 1;
        border: round $foreground 30%;
        border-title-color: $text-primary;
        border-subtitle-color: $text-muted;
        background: $background;
        scrollbar-size-vertical: 1;
        scrollbar-background: $background;
        scrollbar-background-hover: $background;
        scrollbar-background-active: $background;
        scrollbar-color: $foreground 25%;
        scrollbar-color-hover: $foreground 45%;
        scrollbar-color-active: $foreground 45%;

        &:focus, &:focus-within { border: round $primary; }
        &.-over { layer: above; dock: right; width: 100%; max-width: 100%; margin: 0 1; }
    }
    """

    def __init__(self, title: str, close_key: str, widget: Widget) -> None:
        super().__init__()
        self._widget = widget
        self._close_key = close_key
        self.border_title = Content(one_line(title, 40))

    def on_mount(self) -> None:
        """Mount the widget later, since a plugin's may be slow."""
        self.call_later(self.mount, self._widget)

    @property
    def covers_transcript(self) -> bool:
        """Whether it covers the transcript."""
        return self.has_class("-over")

    def set_overlay(self, *, overlay: bool) -> None:
        """Place it beside or over the transcript."""
        self.set_class(overlay, "-over")
        self.border_subtitle = hint("esc" if overlay else self._close_key, "close")

    def refresh_widget(self, ui: Any) -> None:
        """Call the widget's `show` method, if it has one."""
        show: Callable[[Any], object] | None = getattr(self._widget, "show", None)
        if callable(show):
            self.call_later(self._widget.call_later, partial(show, ui))

    def focus_inside(self, step: int = 1) -> None:
        """Focus the first (or with -1 the last) focusable widget in it, or else the panel."""
        inside = self._focusable_widgets()
        (inside[0 if step > 0 else -1] if inside else self).focus()

    def move_focus(self, step: int) -> bool:
        """Focus the next (or with -1 the previous) widget in it; return False if there is none."""
        inside = self._focusable_widgets()
        here = [at for at, widget in enumerate(inside) if widget.has_focus]
        there = here[0] + step if here else -1
        if not 0 <= there < len(inside):
            return False
        inside[there].focus()
        return True

    def _focusable_widgets(self) -> list[Widget]:
        """Return the focusable widgets in order."""
        chain = self.screen.focus_chain
        return [widget for widget in chain if widget is not self and self in widget.ancestors]
