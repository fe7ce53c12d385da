"""Where the person types what to look for; it knows nothing of what is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from chatlm.tui.widgets.line_input import LineInput


class SearchBox(LineInput):
    """Enter and Down both go on to the chats or to what was found, as `Submitted`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "to_chats", "to the chats"),
        Binding("down", "to_hits", "to the hits"),
        Binding("escape", "leave", "back", priority=True),
    ]

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
        return {"to_hits": searching, "to_chats": not searching}.get(action, True)

    async def action_to_chats(self) -> None:
        """Go on to the chats."""
        await self.action_submit()

    async def action_to_hits(self) -> None:
        """Go on to what was found."""
        await self.action_submit()

    def action_leave(self) -> None:
        """Give the search up."""
        self.post_message(self.Left())
