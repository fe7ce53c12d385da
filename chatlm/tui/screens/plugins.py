"""The plugins screen: states, enabling and disabling."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from rich.cells import set_cell_size
from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from chatlm.config import config, paths
from chatlm.config.config import Config
from chatlm.config.form import SettingsForm
from chatlm.plugin_host import lifecycle
from chatlm.plugin_host.discovery import find_plugins
from chatlm.plugin_host.faults import Fault
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.lifecycle import PluginInfo, PluginStatus, describe_plugins, load_faults
from chatlm.plugin_host.settings import plugin_section
from chatlm.text import escape_controls, one_line
from chatlm.tui.screens.card import Card
from chatlm.tui.screens.plugin_settings import PluginSettingsScreen
from chatlm.tui.widgets.column_titles import ColumnTitles
from chatlm.tui.workers import single_value
from chatlm.types.type_hints import field_hints

NAME_WIDTH, STATE_WIDTH = 14, 20
"""Widths of the columns before the description, in cells."""

TITLES = (("plugin", NAME_WIDTH), ("state", STATE_WIDTH), ("what it does", 12))

MUTED_STYLE = "$text-muted"


class PluginList(OptionList):
    """The list of plugins; Enter or a click opens the settings."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "screen.settings", "settings")]


class PluginsScreen(Card[None]):
    """Lists the plugins and describes the highlighted one.

    Args:
        read: returns the plugins; runs in a thread and may raise `ChatlmError`.
        disabled_plugins: plugins disabled in the chat.
        set_disabled_plugins: disables these in the chat and enables all others.
        safe_mode: whether no plugin is loaded.
    """

    DEFAULT_CSS = """
    PluginsScreen {
        & > .card { width: 100; height: 26; }
        & #safe { display: none; height: auto; margin: 0 0 1 0; color: $text-warning; }
        & #safe.-shown { display: block; }
        & OptionList {
            height: 1fr;
            text-wrap: nowrap;
            text-overflow: ellipsis;
        }
        & #about { height: auto; max-height: 50%; margin: 1 0; }
        &.-low #about { max-height: 30%; margin: 0; }
    }
    """

    CARD_TITLE = "Plugins"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "toggle_here", "toggle in this chat"),
        Binding("e", "switch(True)", "enable for all"),
        Binding("d", "switch(False)", "disable for all"),
        Binding("escape,q", "dismiss", "close"),
    ]

    def __init__(
        self,
        read: Callable[[], Sequence[PluginEntry]],
        disabled_plugins: Collection[str],
        set_disabled_plugins: Callable[[frozenset[str]], None],
        *,
        safe_mode: bool = False,
    ) -> None:
        super().__init__()
        self._read = read
        self._disabled_plugins = frozenset(disabled_plugins)
        self._set_disabled_plugins = set_disabled_plugins
        self._safe_mode = safe_mode
        self._entries: Sequence[PluginEntry] = ()

    def body(self) -> Iterable[Widget]:
        """Yield the list and the description."""
        yield Static(
            "Safe mode: no plugin is loaded in this run.",
            id="safe",
            classes="-shown" if self._safe_mode else "",
        )
        yield ColumnTitles(TITLES)
        yield PluginList(Option("Loading …", disabled=True), markup=False)
        yield Static(id="about")

    def on_mount(self) -> None:
        """Read the plugins."""
        self.start_work(lambda: single_value(self._read))

    def handle_value(self, value: object) -> None:
        """Show the plugins."""
        if isinstance(value, list):
            self._entries = value
            self._update_rows()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide actions that are not available."""
        one = self._highlighted_entry
        match action:
            case "toggle_here":
                return one is not None and one.is_active
            case "settings":
                return one is not None and one.fields is not None
            case "switch":
                crashed = one is not None and one.row.status == "crashed"
                return one is not None and (one.enabled_at_next_start != parameters[0] or crashed)
        return True

    def action_toggle_here(self) -> None:
        """Enable or disable the plugin in this chat."""
        if one := self._highlighted_entry:
            self._disabled_plugins ^= {one.row.name}
            self._set_disabled_plugins(self._disabled_plugins)
            self._update_rows()

    def action_switch(self, on: bool) -> None:
        """Enable or disable the plugin for all chats, from the next start."""
        if one := self._highlighted_entry:
            self.start_work(partial(self._set_enabled, one.row.name, on))

    def action_settings(self) -> None:
        """Open the plugin's settings."""
        one = self._highlighted_entry
        if one is not None and one.fields is not None:
            self.app.push_screen(PluginSettingsScreen(one.fields))

    @on(OptionList.OptionSelected)
    def _open_settings(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.action_settings()

    @on(OptionList.OptionHighlighted)
    def _handle_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self._update_description()

    @property
    def _highlighted_entry(self) -> PluginEntry | None:
        """The highlighted plugin."""
        option = self.query_one(PluginList).highlighted_option if self.is_mounted else None
        return None if option is None or option.id is None else self._entries[int(option.id)]

    def _set_enabled(self, name: str, enabled: bool) -> Generator[object, None, None]:
        (lifecycle.enable if enabled else lifecycle.disable)(name)
        yield self._read()

    def _update_rows(self) -> None:
        plugins = self.query_one(PluginList)
        at = plugins.highlighted or 0
        plugins.set_options(plugin_rows(self._entries, self._disabled_plugins))
        plugins.highlighted = at if self._entries else None
        self._update_description()

    def _update_description(self) -> None:
        one = self._highlighted_entry
        details = (
            describe_plugin(one, self._disabled_plugins)
            if one
            else Content(escape_controls(no_plugins_hint()))
        )
        self.query_one("#about", Static).update(details)
        self.call_after_refresh(self.query_one(PluginList).scroll_to_highlight)
        self.refresh_bindings()


def plugin_rows(entries: Sequence[PluginEntry], disabled_plugins: Collection[str]) -> list[Option]:
    """Return a row for each plugin, with its index as the id."""
    if not entries:
        return [Option(Content("No plugins."), disabled=True)]
    return [
        Option(_plugin_row(one, disabled_plugins), id=str(at)) for at, one in enumerate(entries)
    ]


def no_plugins_hint() -> str:
    """Return advice for when there is no plugin."""
    return f"Put one into {paths.user_plugins_dir()}\nor create one: chatlm plugins new NAME"


def _plugin_row(entry: PluginEntry, disabled_plugins: Collection[str]) -> Content:
    now = plugin_state(entry, disabled_plugins)
    return Content.assemble(
        set_cell_size(one_line(entry.row.name, NAME_WIDTH - 2), NAME_WIDTH),
        ("● ", now.colour),
        set_cell_size(now.label, STATE_WIDTH - 2),
        (one_line(entry.row.summary or entry.row.source, 200), MUTED_STYLE),
    )


def describe_plugin(entry: PluginEntry, disabled_plugins: Collection[str]) -> Content:
    """Return the description, state and last failure of a plugin."""
    row = entry.row
    what = "  ".join(filter(None, (row.version, row.source)))
    parts = [
        Content.assemble(
            (one_line(row.name, 40), "bold"), (f"  {escape_controls(what)}", MUTED_STYLE)
        ),
        *([Content(one_line(row.summary, 200))] if row.summary else []),
        Content(plugin_state(entry, disabled_plugins).meaning),
    ]
    if row.error:
        where = "Failed in " if entry.fault else ""
        parts.append(Content.styled(escape_controls(f"{where}{row.error}"), "$text-error"))
        hint = entry.fault.hint if entry.fault else ""
        parts.append(Content(escape_controls(hint or "More: chatlm logs")))
    return Content("\n").join(parts)


@dataclass(frozen=True)
class PluginEntry:
    """A plugin in this run and after the next start."""

    row: PluginInfo
    loaded: bool
    """Whether it is loaded."""
    enabled_at_next_start: bool
    """Whether the next start will load it."""
    fault: Fault | None
    """Its last failure, in this run or an earlier one."""
    fields: SettingsForm | None
    """Its settings; None if it has none or is not loaded."""

    @property
    def is_active(self) -> bool:
        """Whether its hooks are called in chats that do not disable it."""
        return self.loaded and self.row.status in ("on", "slow", "failing")


@dataclass(frozen=True)
class PluginState:
    """State of a plugin."""

    label: str
    meaning: str
    colour: str


ON = PluginState("on", "Enabled in this chat.", "$text-success")


FAILING = PluginState("failing", "Enabled, but its last call failed.", "$text-warning")


SLOW = PluginState("slow", "Enabled, but its last call took long.", "$text-warning")


OFF_HERE = PluginState(
    "off in this chat", "Disabled in this chat. Space enables it.", "$text-warning"
)


OFF_NEXT = PluginState(
    "off at next start", "Disabled for all chats from the next start.", "$text-warning"
)


ON_NEXT = PluginState("on at next start", "Enabled from the next start.", "$text-warning")


OFF = PluginState(
    "off", "Disabled for all chats. e enables it from the next start.", "$foreground 30%"
)


LEFT_OUT = PluginState(
    "left out",
    "It failed too often or did not return, and is disabled until chatlm restarts.",
    "$text-error",
)


FAILED = PluginState("failed to load", "It is not available in any chat.", "$text-error")


CRASHED = PluginState(
    "crashed",
    "chatlm crashed twice while loading it, so it is disabled. e tries it again at the next start.",
    "$text-error",
)


STATES: dict[PluginStatus, PluginState] = {
    "on": ON,
    "slow": SLOW,
    "failing": FAILING,
    "left out": LEFT_OUT,
    "failed": FAILED,
    "crashed": CRASHED,
}


def plugin_entries(host: PluginHost, running: Config) -> list[PluginEntry]:
    """Return every installed plugin; reads files, so call it in a thread.

    Args:
        host: the plugins of this run.
        running: the configuration of this run.

    Raises:
        ConfigError: the config file is invalid.
    """
    off = [one.name for one in find_plugins()] if running.safe_mode else running.disabled_plugins
    faults, disabled = load_faults() | host.last_faults, config.load().disabled_plugins
    return [
        _plugin_entry(host, row, disabled, faults.get(row.name))
        for row in describe_plugins(host, off, faults)
    ]


def _plugin_entry(
    host: PluginHost, row: PluginInfo, disabled: Collection[str], fault: Fault | None
) -> PluginEntry:
    loaded = row.name in host.names
    kind = host.settings_class(row.name) if loaded else None
    fields = SettingsForm(plugin_section(row.name, kind)) if kind and field_hints(kind) else None
    return PluginEntry(row, loaded, row.name not in disabled, fault, fields)


def plugin_state(entry: PluginEntry, disabled_plugins: Collection[str]) -> PluginState:
    """State of a plugin.

    Args:
        entry: the plugin.
        disabled_plugins: plugins disabled in the chat.
    """
    if entry.is_active and entry.row.name in disabled_plugins:
        return OFF_HERE
    if entry.row.status == "off":
        return ON_NEXT if entry.enabled_at_next_start else OFF
    if not entry.enabled_at_next_start:
        return OFF_NEXT
    if entry.row.status == "on" and not entry.loaded:
        return ON_NEXT
    return STATES[entry.row.status]
