"""The help card with all keys, and the command palette."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from chatlm.tui import commands
from chatlm.tui.commands import Command
from chatlm.tui.screens.card import Card
from chatlm.tui.widgets.hints import KEY_STYLE

SECTIONS = {
    "composer": ("Writing", commands.COMPOSER),
    "chat": ("Anywhere", (*commands.PANE_NAVIGATION, *commands.CHAT, *commands.APP)),
    "turn": (
        "On the selected turn; Tab or a click selects one",
        (*commands.TURN, *commands.TURN_NAVIGATION),
    ),
    "list": ("In the chat list", commands.CHAT_LIST),
}
"""Titles and commands by the place where they act."""


HELP_SCORE = 1e-6
"""Score of a command in the palette whose help has the words; those with the name come first."""

FOOTER = 'To change a key, add it to [keys] in config.toml, for example regenerate = "ctrl+y".'


class HelpScreen(Card[None]):
    """A card with scrolling text.

    Args:
        place: the section to begin with, a key of `SECTIONS`; empty for the first.
    """

    DEFAULT_CSS = """
    HelpScreen {
        & > .card { width: 80; }
        & .section { margin: 0 0 1 0; }
    }
    """

    CARD_TITLE = "Keys and commands"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "close"),
        Binding("f1,enter,question_mark,q", "dismiss", "close", show=False),
    ]

    def __init__(self, place: str = "") -> None:
        super().__init__()
        self._place = place

    def body(self) -> Iterable[Widget]:
        """Yield a section for each place with keys."""
        plugins = {"plugins": ("From plugins", commands.plugin_commands())}
        with VerticalScroll():
            for place, (title, group) in {**SECTIONS, **plugins}.items():
                if group:
                    text = _section(title, commands.with_current_keys(group))
                    yield Static(text, id=place, classes="section")
            yield Static(Content.styled(FOOTER, "$text-muted"))

    def on_mount(self) -> None:
        """Show the section of the place first."""
        if self._place:
            section = self.query_one(f"#{self._place}")
            self.call_after_refresh(section.scroll_visible, animate=False, top=True, immediate=True)


def _section(title: str, group: Iterable[Command]) -> Content:
    lines = [Content.styled(title, "bold")]
    for command in group:
        typed = f"/{command.name} {command.argument}".rstrip() if command.is_slash_command else ""
        lines.append(
            Content.assemble(
                (f"{commands.key_name(command.key):<10}", KEY_STYLE),
                (f"{typed:<19} ", "$text-primary"),
                command.help,
            )
        )
    return Content("\n").join(lines)


class ChatCommands(Provider):
    """Commands in the palette; one with a required argument is put into the composer."""

    async def discover(self) -> Hits:
        """Yield all commands before anything is typed."""
        for command in _slash_commands():
            yield DiscoveryHit(_command_row(command), partial(self._run, command), command.title)

    async def search(self, query: str) -> Hits:
        """Yield the commands whose name matches the query, then those whose help has its words."""
        matcher, words = self.matcher(query), query.lower().split()
        for command in _slash_commands():
            score = matcher.match(command.title)
            if not score and all(word in command.help.lower() for word in words):
                score = HELP_SCORE
            if score > 0:
                run = partial(self._run, command)
                yield Hit(score, _command_row(command), run, command.title)

    async def _run(self, command: Command) -> None:
        name = "begin" if command.needs_argument else "command"
        await self.screen.run_action(f"screen.{name}('{command.name}')")


def _slash_commands() -> list[Command]:
    return [command for command in commands.ALL.values() if command.is_slash_command]


def _command_row(command: Command) -> Content:
    return Content.assemble(
        f"{command.title:<18}",
        (f"{commands.key_name(command.key):<8}", KEY_STYLE),
        (command.help, "$text-muted"),
    )
