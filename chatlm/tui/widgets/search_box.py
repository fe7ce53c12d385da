"""Where the person types what to look for; it knows nothing of what is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from chatlm.tui.widgets.line_input import LineInput


class SearchBox(LineInput):
    """Enter asks for the first hit, as `Submitted`; Down for what is below, as `Below`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "open the first"),
        Binding("down,enter", "to_chats", "to the chats"),
        Binding("down", "to_hits", "to the hits"),
        Binding("escape", "leave", "back", priority=True),
    ]

    @dataclass
    class Below(Message):
        """The person wants to be among the chats, or among what was found."""

    @dataclass
    class Left(Message):
        """The person is done with searching."""

    def __init__(self) -> None:
        super().__init__(placeholder="Search all chats", select_on_focus=False)

    def watch_value(self, value: str) -> None:
        """The keys say what is below."""
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hits are shown for words only."""
        searching = bool(self.value.strip())
        if action in ("submit", "to_hits"):
            return searching
        return action != "to_chats" or not searching

    def action_to_chats(self) -> None:
        """Go on to the chats."""
        self.post_message(self.Below())

    def action_to_hits(self) -> None:
        """Go on to what was found."""
        self.post_message(self.Below())

    def action_leave(self) -> None:
        """Give the search up."""
        self.post_message(self.Left())
