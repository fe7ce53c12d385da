"""Open and close panels and screens; panel frame."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from textual.binding import Binding, BindingsMap
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget

from chatlm.errors import UsageError
from chatlm.plugin_host.faults import reraise_interrupt
from chatlm.text import one_line
from chatlm.tui import commands
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.plugin_ui import isolation
from chatlm.tui.plugin_ui.isolation import PluginRegion
from chatlm.tui.plugin_ui.offers import Registrations
from chatlm.tui.plugin_ui.ui import PluginUi

if TYPE_CHECKING:
    from chatlm.tui.chat_screen import ChatScreen


W = TypeVar("W", bound=Widget)


MIN_WIDTH_FOR_SIDE_PANEL = 100
"""With fewer columns a panel stands over the transcript."""


class PluginRegions:
    """One panel at a time, and any number of screens.

    Args:
        screen: the chat they belong to.
        offers: what the plugins offer.
    """

    def __init__(self, screen: ChatScreen, offers: Registrations) -> None:
        self._screen = screen
        self._owner = screen.owner
        self._plugins = screen.owner.plugins
        self._offers = offers
        self._name = ""
        """Of the panel that is shown."""
        self.panel: PluginPanel | None = None
        """The panel that is shown."""
        self.selected: int | None = None
        """Id of the selected turn; None for the newest."""
        self._broken: set[PluginRegion] = set()
        """Regions that are still to be taken off the screen."""

    @property
    def busy(self) -> bool:
        """Whether a region that broke is still on the screen."""
        return bool(self._broken)

    def toggle_panel(self, name: str) -> None:
        """Show a panel in place of any other; one that is shown is closed.

        Raises:
            UsageError: there is no such panel, or its plugin is left out.
        """
        offer = self._offers.panels.get(name)
        if offer is None:
            raise UsageError(f"There is no panel {name}")
        shown = self._name if self.panel else ""
        self.close_panel()
        if shown == name:
            return
        self._offers.refuse_left_out(offer.plugin)
        region = PluginRegion(offer.plugin, f"panel {name}", self._broke)
        ui = PluginUi(offer.plugin, self._screen)
        widget = self._make(region, partial(offer.thing.open, ui), Widget)
        if widget is None:
            return
        closes = commands.key_of(name) or f"/{name}"
        self._name, self.panel = name, PluginPanel(offer.thing.title, closes, widget)
        self._owner.own(self.panel, region)
        self.resize()
        self._screen.query_one("#middle", Horizontal).mount(self.panel)
        self.panel.follow(ui)

    def close_panel(self) -> None:
        """Show no panel."""
        panel, self.panel = self.panel, None
        if panel is None:
            return
        if panel.has_focus or panel.has_focus_within:
            self._screen.set_focus(self._screen.chat.composer)
        panel.display = False
        self._owner.release(panel)
        panel.remove()
        self._closed(panel)

    def uncover(self) -> bool:
        """Close a panel that stands over the transcript; False when none does."""
        covers = self.panel is not None and self.panel.covers
        if covers:
            self.close_panel()
        return covers

    def open_screen(self, name: str, argument: str = "") -> None:
        """Show a screen.

        Raises:
            UsageError: there is no such screen, or its plugin is left out.
        """
        offer = self._offers.screens.get(name)
        if offer is None:
            raise UsageError(f"There is no screen {name}")
        self._offers.refuse_left_out(offer.plugin)
        region = PluginRegion(offer.plugin, f"screen {name}", self._broke)
        ui = PluginUi(offer.plugin, self._screen)
        kind: type[Screen[Any]] = Screen
        screen = self._make(region, partial(offer.thing.open, ui, argument), kind)
        if screen is None:
            return
        isolation.load_scoped_css(self._owner, screen)
        leave = BindingsMap([Binding("escape", "app.leave_plugin", "close", show=False)])
        screen._bindings = BindingsMap.merge([screen._bindings, leave])
        screen._mounted_event.set()  # the program does not wait for a plugin to get ready
        self._owner.own(screen, region)
        self._owner.push_screen(screen, lambda _: self._closed(screen))

    def leave_screen(self) -> None:
        """Close the plugin's screen that is on top."""
        screen = self._owner.screen
        if self._owner.region_of(screen):
            self._pop(screen)
            self._closed(screen)

    def follow(self, *, changed: bool = True) -> None:
        """Let the panel look at the chat again.

        Args:
            changed: whether it has changed, or perhaps only the selected turn.
        """
        focused, before = self._screen.focused, self.selected
        self.selected = focused.turn.id if isinstance(focused, TurnView) else None
        if self.panel and (changed or self.selected != before):
            plugin = self._offers.panels[self._name].plugin
            self.panel.follow(PluginUi(plugin, self._screen))

    def resize(self) -> None:
        """Let the panel stand beside the transcript, or over it."""
        if self.panel:
            self.panel.place(over=self._screen.size.width < MIN_WIDTH_FOR_SIDE_PANEL)

    def _make(self, region: PluginRegion, make: Callable[[], object], kind: type[W]) -> W | None:
        """What a plugin makes to be shown; None, and a fault, where that cannot be shown."""
        try:
            made = make()
            if not isinstance(made, kind) or (kind is Widget and isinstance(made, Screen)):
                raise TypeError(
                    f"open returned {type(made).__name__}, not a Textual {kind.__name__}"
                )
            isolation.check_styles(self._owner, made)
        except BaseException as error:  # a plugin may fail in any way
            reraise_interrupt(error)
            self._broke(region, error)
            return None
        return made

    def _broke(self, region: PluginRegion, error: BaseException) -> None:
        """Note what a plugin did wrong, and close what it draws in."""
        region.broken = True
        self._broken.add(region)
        self._plugins.failed(region.plugin, region.where, error)
        self._screen.plugin_actions.soon(partial(self._end, region))

    def _end(self, region: PluginRegion) -> None:
        """Take a region that broke off the screen."""
        stack = list(self._owner.screen_stack)
        theirs = [at for at, screen in enumerate(stack) if self._owner.region_of(screen) is region]
        for screen in reversed(stack[theirs[0] :] if theirs else []):
            self._pop(screen)
        if self.panel and self._owner.region_of(self.panel) is region:
            self.close_panel()
        self._broken.discard(region)
        self._screen.plugin_actions.tell_faults()

    def _pop(self, screen: Screen[Any]) -> None:
        self._owner.release(screen)
        self._owner.pop_screen()

    def _closed(self, widget: Widget) -> None:
        """Note that a region was closed by the person, unless it broke."""
        region = self._owner.region_of(widget)
        if region and not region.broken:
            self._plugins.went_well(region.plugin, region.where)


class PluginPanel(VerticalScroll, can_focus=True):
    """A title, the widget, and what closes it.

    Args:
        title: in the border.
        closes: the key or command that closes it.
        widget: what the plugin made.
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

    def __init__(self, title: str, closes: str, widget: Widget) -> None:
        super().__init__()
        self._widget = widget
        self._closes = closes
        self.border_title = Content(one_line(title, 40))

    def on_mount(self) -> None:
        """Put the widget in, in a step of its own: a plugin's may take as long as it likes."""
        self.call_later(self.mount, self._widget)

    @property
    def covers(self) -> bool:
        """Whether it stands over the transcript."""
        return self.has_class("-over")

    def place(self, *, over: bool) -> None:
        """Stand beside the transcript, or over it."""
        self.set_class(over, "-over")
        closes = "esc" if over else self._closes
        self.border_subtitle = Content(f"{closes} closes")

    def follow(self, ui: Any) -> None:
        """Let the widget look at the chat again, if it can."""
        show: Callable[[Any], object] | None = getattr(self._widget, "show", None)
        if callable(show):
            self.call_later(self._widget.call_later, partial(show, ui))

    def enter(self, step: int = 1) -> None:
        """Focus the first thing in it that can be, or with -1 the last, or else the panel."""
        inside = self._inside()
        (inside[0 if step > 0 else -1] if inside else self).focus()

    def walk(self, step: int) -> bool:
        """Go on to the next thing in it, or with -1 back; False where there is none."""
        inside = self._inside()
        here = [at for at, widget in enumerate(inside) if widget.has_focus]
        there = here[0] + step if here else -1
        if not 0 <= there < len(inside):
            return False
        inside[there].focus()
        return True

    def _inside(self) -> list[Widget]:
        """What can be focused, in order."""
        chain = self.screen.focus_chain
        return [widget for widget in chain if widget is not self and self in widget.ancestors]
