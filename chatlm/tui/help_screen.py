"""All keys and commands, from the table that they come from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from chatlm.tui import commands
from chatlm.tui.card import Card
from chatlm.tui.commands import Command

PARTS = (
    ("Writing", commands.COMPOSER),
    ("Anywhere", (*commands.REGIONS, *commands.CHAT, *commands.APP)),
    ("On a turn, which Tab or a click selects", (*commands.TURN, *commands.WALK)),
    ("In the list of chats", commands.LIST),
)
FOOT = 'config.toml can change a key: in [keys], for example regenerate = "ctrl+y".'


class HelpScreen(Card[None]):
    """A card over the chat; the arrows scroll."""

    DEFAULT_CSS = """
    HelpScreen > .card { width: 80; }
    """

    CARD_TITLE = "Keys and commands"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "close"),
        Binding("f1,enter,question_mark,q", "dismiss", "close", show=False),
    ]

    def body(self) -> Iterable[Widget]:
        """A part for each place where keys are heard."""
        groups = [*PARTS, ("From plugins", commands.from_plugins())]
        parts = [_part(head, commands.now(group)) for head, group in groups if group]
        with VerticalScroll():
            yield Static(Content("\n\n").join([*parts, Content.styled(FOOT, "$text-muted")]))


def _part(head: str, group: Iterable[Command]) -> Content:
    lines = [Content.styled(head, "bold")]
    for command in group:
        typed = f"/{command.name} {command.argument}".rstrip() if command.typed else ""
        lines.append(
            Content.assemble(
                (f"{commands.key_name(command.key):<10}", "bold $text-primary"),
                (f"{typed:<19} ", "$text-primary"),
                command.help,
            )
        )
    return Content("\n").join(lines)
