"""Where the person types what to look for; it knows nothing of what is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from chatlm.tui.widgets.line_input import LineInput


class SearchBox(LineInput):
    """Enter and Down both go on to what was found, as `Submitted`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,down", "submit", "to the chats"),
        Binding("escape", "leave", "back", priority=True),
    ]

    @dataclass
    class Left(Message):
        """The person is done with searching."""

    def __init__(self) -> None:
        super().__init__(placeholder="Search all chats", select_on_focus=False)

    def action_leave(self) -> None:
        """Give the search up."""
        self.post_message(self.Left())
