"""Collect the commands, panels and screens that plugins register."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from textual.binding import BindingsMap
from textual.widgets import TextArea

from chatlm.errors import UsageError
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.ui_api import Panel, PluginScreen, SlashCommand
from chatlm.text import one_line
from chatlm.tui import commands
from chatlm.tui.commands import Command

ItemT = TypeVar("ItemT", SlashCommand, Panel, PluginScreen)


COMMANDS_HOOK, PANELS_HOOK, SCREENS_HOOK = (
    "register_slash_commands",
    "register_panels",
    "register_screens",
)


@dataclass(frozen=True)
class Registration(Generic[ItemT]):
    """A registered item and its plugin."""

    plugin: str
    item: ItemT


class Registrations:
    """Registered commands, panels and screens by name; the first loaded plugin wins.

    Args:
        plugins: their hooks are called at once.
    """

    def __init__(self, plugins: PluginHost) -> None:
        self._plugins = plugins
        own = dict.fromkeys(commands.builtin_names(), "chatlm")
        self.commands: dict[str, Registration[SlashCommand]] = self._collect(COMMANDS_HOOK, own)
        theirs = {name: offer.plugin for name, offer in self.commands.items()}
        self.panels: dict[str, Registration[Panel]] = self._collect(PANELS_HOOK, own | theirs)
        self.screens: dict[str, Registration[PluginScreen]] = self._collect(SCREENS_HOOK, {})

    def assign_keys(self, keys: Mapping[str, str]) -> list[str]:
        """Add the commands to the command table; a key that is taken is a fault.

        Args:
            keys: the user's keys, as in the config.

        Returns:
            problems to show, as from `commands.assign_keys`.
        """
        editing = BindingsMap(TextArea.BINDINGS).key_to_bindings
        wanted = self._command_table()
        free = [dataclasses.replace(c, key="") if c.key in editing else c for c in wanted]
        problems = commands.assign_keys(keys, free)
        lost = [
            command
            for command in wanted
            if command.key and command.name not in keys and not commands.ALL[command.name].key
        ]
        for hook, offers in ((COMMANDS_HOOK, self.commands), (PANELS_HOOK, self.panels)):
            for plugin in self._plugins.names:
                names = {name for name, offer in offers.items() if offer.plugin == plugin}
                if theirs := [command for command in lost if command.name in names]:
                    self._report_key_conflicts(plugin, hook, theirs)
        return problems

    def require_enabled(self, plugin: str) -> None:
        """Check that a plugin is not disabled after too many failures.

        Raises:
            UsageError: it is disabled.
        """
        if self._plugins.is_dropped(plugin):
            raise UsageError(
                f"The plugin {plugin} failed too often",
                hint="It is disabled until chatlm restarts; /plugins shows why.",
            )

    def _command_table(self) -> list[Command]:
        """Return a command for each slash command and panel."""
        table = []
        for plugin, it in ((offer.plugin, offer.item) for offer in self.commands.values()):
            argument = one_line(it.argument, 30)
            table.append(Command(it.name, _help_text(it.help, plugin), it.key, argument))
        for plugin, panel in ((offer.plugin, offer.item) for offer in self.panels.values()):
            does = f"show or hide: {panel.title}"
            table.append(Command(panel.name, _help_text(does, plugin), panel.key))
        return table

    def _collect(self, hook: str, reserved: Mapping[str, str]) -> dict[str, Registration[ItemT]]:
        """Return the items of the plugins whose hook succeeded.

        Args:
            hook: the hook to call.
            reserved: names in use, with their owners.
        """
        offered: dict[str, list[ItemT]] = {}
        for plugin, (item,) in self._plugins.collect(hook):
            offered.setdefault(plugin, []).append(item)
        offers: dict[str, Registration[ItemT]] = {}
        for plugin in (name for name in self._plugins.names if name in offered):
            owners = {**reserved, **{name: offer.plugin for name, offer in offers.items()}}
            things = {thing.name: thing for thing in offered[plugin]}
            if lost := [f"{name} (of {owners[name]})" for name in things if name in owners]:
                self._plugins.record_failure(
                    plugin,
                    hook,
                    _conflict_error("names", lost, "Report it to the plugin's author."),
                )
            offers |= {
                n: Registration(plugin, thing) for n, thing in things.items() if n not in owners
            }
        return offers

    def _report_key_conflicts(self, plugin: str, hook: str, conflicting: list[Command]) -> None:
        keys = [f"{command.key} (for /{command.name})" for command in conflicting]
        hint = f'Choose others in config.toml, in [keys], for example {conflicting[0].name} = "f9".'
        self._plugins.record_failure(plugin, hook, _conflict_error("keys", keys, hint))


def _conflict_error(noun: str, conflicts: list[str], hint: str) -> UsageError:
    return UsageError(f"these {noun} are taken: {', '.join(conflicts)}", hint=hint)


def _help_text(text: str, plugin: str) -> str:
    """Return a command's help text with its plugin's name."""
    return f"{one_line(text, 60)} · {one_line(plugin, 30)}"
