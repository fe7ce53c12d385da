"""The tools of one chat: which are offered, and what happens to each call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from chatlm.config import paths
from chatlm.config.paths import expand_path
from chatlm.errors import UsageError
from chatlm.plugin_host.turn_plugins import TurnPlugins
from chatlm.types.conversations import ConversationHeader
from chatlm.types.requests import ToolDefinition
from chatlm.types.tool_rules import ChatTools, Permission, ToolRule, ToolSettings, parse_rules
from chatlm.types.tools import Tool

ADDED_BY = "session"
"""Stands for the plugin of tools that the session adds."""


@dataclass(frozen=True)
class ToolOptions:
    """What a session does about tools, whatever the chat says."""

    settings: ToolSettings = field(default_factory=ToolSettings)
    names: tuple[str, ...] | None = None
    """Tools and groups to offer, and no others; None for those of the settings and the chat."""
    allow: tuple[str, ...] = ()
    """Rules of this session only."""
    deny: tuple[str, ...] = ()
    choice: str = "auto"
    """As `Request.tool_choice`, for the first output of each reply."""
    added: Callable[[], Iterable[Tool]] | None = None
    """Returns tools of this session only, which are offered beside those of the plugins even where
    these are off; None for none."""

    def is_on(self, chat: ChatTools) -> bool:
        """Whether the tools of plugins are offered in a chat."""
        if self.names is not None:
            return bool(self.names)
        return self.settings.enabled if chat.enabled is None else chat.enabled

    def may_offer(self, chat: ChatTools) -> bool:
        """Whether any tools may be offered in a chat."""
        return self.added is not None or self.is_on(chat)


@dataclass(frozen=True)
class OfferedTool:
    """A tool and the plugin that it comes from."""

    tool: Tool
    plugin: str
    group: str
    """The name that stands for it and others."""
    is_added: bool = False
    """Whether it is one of `ToolOptions.added`; then `plugin` is `ADDED_BY`."""


@dataclass(frozen=True)
class Decision:
    """What happens to a call without asking, and why."""

    permission: Permission
    reason: str
    """Such as `the rule files_read of this chat`."""


class ToolSet:
    """The tools that plugins offer, under the rules of one chat.

    Args:
        tools: by name.
        options: of the session.
        chat: the chat, or a new one with its settings.
    """

    def __init__(
        self,
        tools: Mapping[str, OfferedTool],
        options: ToolOptions,
        chat: ConversationHeader,
    ) -> None:
        self.tools = tools
        self.options = options
        self.chat = chat
        settings = options.settings
        self._levels: tuple[tuple[str, Mapping[Permission, tuple[ToolRule, ...]]], ...] = (
            ("of this command", {"allow": parse_rules(options.allow)}),
            (
                "of this chat",
                {"allow": parse_rules(chat.tools.allow), "ask": parse_rules(chat.tools.ask)},
            ),
            (
                "in the settings",
                {"allow": parse_rules(settings.allow), "ask": parse_rules(settings.ask)},
            ),
        )
        self._denied = (
            ("of this command", parse_rules(options.deny)),
            ("of this chat", parse_rules(chat.tools.deny)),
            ("in the settings", parse_rules(settings.deny)),
        )
        project = (Path(chat.project.folder),) if chat.project else ()
        self.folders = tuple(dict.fromkeys((*map(expand_path, settings.folders), *project)))
        """Folders that tools may use."""

    @property
    def offered(self) -> dict[str, OfferedTool]:
        """The tools offered to the model."""
        is_on = self.options.is_on(self.chat.tools)
        return {
            name: each
            for name, each in self.tools.items()
            if (is_on or each.is_added) and self.offers(each)
        }

    def offers(self, offered: OfferedTool) -> bool:
        """Whether a tool is offered in this chat, where its kind of tools is on."""

        def named(texts: Iterable[str]) -> bool:
            rules = parse_rules(texts)
            return any(rule.names(offered.tool.name, offered.group) for rule in rules)

        settings, chat = self.options.settings, self.chat.tools
        if self.options.names is not None and not offered.is_added:
            return named(self.options.names)
        if named(chat.on) or named(chat.off):
            return named(chat.on)
        if named(settings.off):
            return False
        return offered.tool.enabled_by_default or named(settings.on)

    @property
    def definitions(self) -> tuple[ToolDefinition, ...]:
        """The tools as they are described to the model."""
        return tuple(each.tool.definition for each in self.offered.values())

    def rules_about(self, offered: OfferedTool) -> list[str]:
        """Return the rules about a tool, each with what it does and where it is."""
        places = [
            (permission, place, rules)
            for place, by_permission in self._levels
            for permission, rules in by_permission.items()
        ]
        places += [("deny", place, rules) for place, rules in self._denied]
        return [
            f"{permission} {rule}, a rule {place}"
            for permission, place, rules in places
            for rule in rules
            if rule.names(offered.tool.name, offered.group)
        ]

    def permission(self, offered: OfferedTool) -> Permission:
        """Return what happens to calls of a tool, rules for certain arguments aside."""
        return self._decide(offered, {}, plain=True).permission

    def decide(self, offered: OfferedTool, arguments: Mapping[str, Any]) -> Decision:
        """Return what happens to a call, unless the user is asked for another reason.

        A rule that denies decides first. Then the rules of the command, of the chat and of the
        settings, in this order; among those of one place the most exact one, and `ask` before
        `allow`. Without any, the tool itself says what happens. Of a tool that always asks, no
        rule allows a call.
        """
        return self._decide(offered, arguments, plain=False)

    def _decide(
        self, offered: OfferedTool, arguments: Mapping[str, Any], *, plain: bool
    ) -> Decision:
        """As `decide`; `plain` ignores rules with arguments."""
        decision = self._decide_by_rules(offered, arguments, plain=plain)
        if offered.tool.always_ask and decision.permission == "allow":
            return Decision("ask", f"the tool {offered.tool.name} always asks")
        return decision

    def _decide_by_rules(
        self, offered: OfferedTool, arguments: Mapping[str, Any], *, plain: bool
    ) -> Decision:
        tool, group = offered.tool, offered.group
        for place, rules in self._denied:
            for rule in rules:
                if plain and rule.arguments:
                    continue
                if rule.matches(tool.name, group, arguments, self.folders, surely=False):
                    return Decision("deny", f"the rule {rule} {place}")
        for place, by_permission in self._levels:
            matching = [
                (rule.rank(tool.name), permission == "ask", permission, rule)
                for permission, rules in by_permission.items()
                for rule in rules
                if not (plain and rule.arguments)
                and rule.matches(
                    tool.name, group, arguments, self.folders, surely=permission == "allow"
                )
            ]
            if matching:
                _, _, permission, rule = max(matching, key=lambda each: each[:2])
                return Decision(permission, f"the rule {rule} {place}")
        return Decision(tool.permission, f"the tool {tool.name} itself")


def find_tools(
    plugins: TurnPlugins, added: Callable[[], Iterable[Tool]] | None = None
) -> dict[str, OfferedTool]:
    """Ask the plugins for their tools; of two with one name the first is taken.

    Args:
        plugins: the plugins.
        added: as `ToolOptions.added`; these tools come last.

    A rule for a group must never be about tools of another plugin. So a group whose name a plugin
    before has for a group or a tool gets its plugin's name before it, such as `mcp-files`.
    """
    found: dict[str, OfferedTool] = {}
    owners: dict[str, str] = {}
    offers = [(plugin, tool, False) for plugin, (tool,) in plugins.collect("register_tools")]
    offers += [(ADDED_BY, tool, True) for tool in (added() if added is not None else ())]
    for plugin, tool, is_added in offers:
        if tool.name in found:
            continue
        group = tool.group or plugin
        if owners.setdefault(group, plugin) != plugin:
            group = f"{plugin}-{group}"
            owners.setdefault(group, plugin)
        owners.setdefault(tool.name, plugin)
        found[tool.name] = OfferedTool(tool, plugin, group, is_added)
    return dict(sorted(found.items()))


def check_names(names: Iterable[str], tools: Mapping[str, OfferedTool]) -> None:
    """Check that names of tools or groups, with wildcards perhaps, stand for some.

    Raises:
        UsageError: one does not.
    """
    groups = {each.group for each in tools.values()}
    for name in names:
        rule = ToolRule.parse(name)
        if not any(rule.names(tool, each.group) for tool, each in tools.items()):
            near = get_close_matches(rule.name, [*tools, *groups], 1)
            raise UsageError(
                f"There is no tool {rule.name}",
                hint=f"Did you mean {near[0]}?" if near else "List them: chatlm tools list",
            )


def data_folder(plugin: str) -> Path:
    """Return the folder in which the tools of a plugin keep their data."""
    return paths.data_dir() / "plugin-data" / plugin


def with_chat_tools(chat: ConversationHeader, tools: ChatTools) -> ConversationHeader:
    """Return the chat with other decisions about tools."""
    return dataclasses.replace(chat, tools=tools)
