"""The card that searches the messages that were sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from chatlm.text import one_line
from chatlm.tui.screens.card import Card
from chatlm.tui.widgets.inputs import LineInput
from chatlm.tui.widgets.pick_list import PickList

MAX_ROWS = 200
"""Messages listed at once."""


class HistoryScreen(Card[str | None]):
    """Filters the messages by words, and returns the chosen one; None if the user cancels.

    Args:
        messages: newest first.
        words: what to search for first.
    """

    DEFAULT_CSS = """
    HistoryScreen {
        & > .card { width: 100; height: 26; }
        & PickList { height: 1fr; margin: 1 0; }
    }
    """

    CARD_TITLE = "Messages you sent"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "write it again", priority=True),
        Binding("down", "move(1)", "next", show=False),
        Binding("up", "move(-1)", "previous", show=False),
        Binding("escape", "dismiss", "close"),
    ]

    def __init__(self, messages: Sequence[str], words: str = "") -> None:
        super().__init__()
        self._messages = messages
        self._words = words

    def body(self) -> Iterable[Widget]:
        """Yield the box and the list."""
        box = LineInput(placeholder="Words of the message", select_on_focus=False)
        box.value = self._words
        yield box
        yield PickList(markup=False)

    def on_mount(self) -> None:
        """List the messages, and focus the box."""
        self.query_one(Input).focus()
        self._update_list(self._words)

    def action_move(self, step: int) -> None:
        """Go to the next or previous message."""
        self.query_one(PickList).move(step)

    def action_choose(self) -> None:
        """Return the highlighted message."""
        option = self.query_one(PickList).highlighted_option
        if option is not None and option.id is not None:
            self.dismiss(self._messages[int(option.id)])

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def _choose(self, event: Message) -> None:
        event.stop()
        self.action_choose()

    @on(Input.Changed)
    def _filter(self, event: Input.Changed) -> None:
        event.stop()
        self._update_list(event.value)

    def _update_list(self, query: str) -> None:
        found = find_messages(self._messages, query)[:MAX_ROWS]
        options = [Option(Content(one_line(self._messages[at], 300)), id=str(at)) for at in found]
        nothing = "You have not sent a message yet." if not self._messages else "No such message."
        shown = self.query_one(PickList)
        shown.set_options(options or [Option(Content(nothing), disabled=True)])
        shown.highlighted = 0 if options else None


def find_messages(messages: Sequence[str], query: str) -> list[int]:
    """Return the places of the messages that have all words of the query, newest first."""
    words = query.casefold().split()
    return [
        at
        for at, message in enumerate(messages)
        if all(word in message.casefold() for word in words)
    ]
