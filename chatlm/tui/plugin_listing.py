"""What is said about each plugin, as values; knows no widget."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from chatlm import config
from chatlm.config import Config
from chatlm.plugins import Fault, PluginHost, find
from chatlm.plugins.fields import Fields
from chatlm.plugins.lifetime import recalled
from chatlm.plugins.overview import Row, Status, overview
from chatlm.plugins.values import hints_of


@dataclass(frozen=True)
class Listed:
    """One plugin as it is in this run, and as it will be."""

    row: Row
    loaded: bool
    """Whether this run has it."""
    wanted: bool
    """Whether the next start will load it."""
    fault: Fault | None
    """The last one, of this run or an earlier."""
    fields: Fields | None
    """Its settings; None where it has none or is not loaded."""

    @property
    def takes_part(self) -> bool:
        """Whether its hooks are called in the chats where it is not switched off."""
        return self.loaded and self.row.status in ("on", "failing")


@dataclass(frozen=True)
class State:
    """How it stands with a plugin."""

    word: str
    meaning: str
    colour: str


ON = State("on", "It takes part in this chat.", "$text-success")
FAILING = State("failing", "It is on, but failed when it was used last.", "$text-warning")
OFF_HERE = State(
    "off in this chat", "It takes no part in this chat. Space switches it on.", "$text-warning"
)
OFF_NEXT = State(
    "off at next start", "From the next start on it is off for all chats.", "$text-warning"
)
ON_NEXT = State("on at next start", "It is loaded at the next start of chatlm.", "$text-warning")
OFF = State(
    "off", "It is off for all chats. e switches it on, from the next start.", "$foreground 30%"
)
LEFT_OUT = State(
    "left out", "It failed too often, and is left out until chatlm restarts.", "$text-error"
)
FAILED = State("failed to load", "It takes part in no chat.", "$text-error")
CRASHED = State(
    "ended chatlm",
    "chatlm ended while this was loaded, so it is left out. e tries it at the next start.",
    "$text-error",
)

STATES: dict[Status, State] = {
    "on": ON,
    "failing": FAILING,
    "left out": LEFT_OUT,
    "failed": FAILED,
    "crashed": CRASHED,
}


def listed(host: PluginHost, running: Config) -> list[Listed]:
    """Every plugin that is here; reads files, so that a thread is the place for it.

    Args:
        host: the plugins of this run.
        running: the settings that it began with.

    Raises:
        ConfigError: the config file is wrong now.
    """
    off = [one.name for one in find()] if running.safe_mode else running.disabled_plugins
    faults, disabled = recalled() | host.last_faults, config.load().disabled_plugins
    return [
        _listed(host, row, disabled, faults.get(row.name)) for row in overview(host, off, faults)
    ]


def _listed(host: PluginHost, row: Row, disabled: Collection[str], fault: Fault | None) -> Listed:
    loaded = row.name in host.names
    kind = host.settings_class(row.name) if loaded else None
    fields = Fields(row.name, kind) if kind and hints_of(kind) else None
    return Listed(row, loaded, row.name not in disabled, fault, fields)


def state(one: Listed, without: Collection[str]) -> State:
    """How it stands with a plugin.

    Args:
        one: the plugin.
        without: those that are switched off in the chat.
    """
    if one.takes_part and one.row.name in without:
        return OFF_HERE
    if one.row.status == "off":
        return ON_NEXT if one.wanted else OFF
    if not one.wanted:
        return OFF_NEXT
    if one.row.status == "on" and not one.loaded:
        return ON_NEXT
    return STATES[one.row.status]
