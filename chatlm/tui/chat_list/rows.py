"""Row texts and date headings of the chat list; base widgets for lists and the search box."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from chatlm.store.queries import ChatListEntry
from chatlm.text import one_line
from chatlm.tui import commands
from chatlm.tui.commands import Command
from chatlm.tui.formatting import model_label
from chatlm.tui.widgets.inputs import LineInput

UNTITLED = "Untitled"


NO_CHATS = Content("No chats yet.\n\nYour conversations\nappear here.")


_FORK = re.compile(r"(.*) \((fork(?: \d+)?)\)")
"""A fork's title; the row has room for its beginning only, so the word goes to the second line."""


PINNED, UNFINISHED, ANSWERING = "▪", "◐", "●"

LEGEND = Content.assemble(
    (PINNED, "$text-primary"),
    " pinned ",
    (UNFINISHED, "$text-warning"),
    " cut off ",
    (ANSWERING, "$text-primary"),
    " writing",
)
"""What the marks mean."""


def chat_row(
    chat: ChatListEntry, now: datetime, *, current_id: int | None, answering_id: int | None
) -> Content:
    """Two lines: a mark and the title, bold for the chat on the screen; age, model and origin.

    Args:
        chat: what the store says about it.
        now: the current time.
        current_id: id of the chat on the screen.
        answering_id: id of the chat that a turn is running for.
    """
    if chat.id == answering_id:
        mark, colour = ANSWERING, "$text-primary"
    elif chat.unfinished:
        mark, colour = UNFINISHED, "$text-warning"
    elif chat.pinned:
        mark, colour = PINNED, "$text-primary"
    else:
        mark, colour = " ", ""
    title, origin = one_line(chat.title, 60), "fork" if chat.forked else ""
    if named := _FORK.fullmatch(title):
        title, origin = named.groups()
    model = model_label(chat.model)
    quiet = "$foreground 70%"
    details = (
        (age(chat.updated, now), quiet),
        (chat.source, quiet),
        (origin, quiet),
        (one_line(chat.project, 24), "$text-accent"),
        (" ".join(f"#{one_line(tag, 24)}" for tag in chat.tags), "$text-secondary"),
        (model, quiet),
    )
    return Content.assemble(
        (f"{mark} ", colour),
        (title or UNTITLED, "bold" if chat.id == current_id else ""),
        "\n  ",
        Content.styled(" · ", quiet).join(Content.styled(*each) for each in details if each[0]),
    )


def age(when: datetime, now: datetime) -> str:
    """Return how long ago a time is, such as `5 min`, `3 h` or `2 d`."""
    seconds = (now - when).total_seconds()
    for size, unit in ((365 * 86400, "y"), (14 * 86400, "w"), (86400, "d"), (3600, "h")):
        if seconds >= size:
            return f"{seconds // (7 * 86400 if unit == 'w' else size):.0f} {unit}"
    return f"{seconds // 60:.0f} min" if seconds >= 60 else "now"


def chat_group(chat: ChatListEntry, now: datetime) -> str:
    """Return the heading of a chat."""
    return "Pinned" if chat.pinned else day_group(chat.updated, now)


def day_group(when: datetime, now: datetime) -> str:
    """Return the local date group of a time: a day, this week since Monday, or a month."""
    day, today = when.astimezone().date(), now.astimezone().date()
    if day >= today:
        return "Today"
    if day == today - timedelta(days=1):
        return "Yesterday"
    if day >= today - timedelta(days=today.weekday()):
        return "This week"
    return day.strftime("%B %Y")


class RowList(OptionList):
    """A list in which Up from the first row focuses the search box."""

    DEFAULT_CSS = """
    RowList {
        height: 1fr;
        max-height: 1fr;
        border: none;
        padding: 0 0 0 1;
        background: transparent;
        scrollbar-size-vertical: 1;
        scrollbar-background: $foreground 0%;
        scrollbar-background-hover: $foreground 0%;
        scrollbar-background-active: $foreground 0%;
        scrollbar-color: $foreground 25%;
        scrollbar-color-hover: $foreground 45%;
        scrollbar-color-active: $foreground 45%;

        &:focus { border: none; background-tint: transparent; }
        & > .option-list--option { padding: 0; }
        & > .option-list--option-disabled { color: $text-muted; }
        & > .option-list--option-highlighted { color: $foreground; background: $foreground 10%; }
        &:focus > .option-list--option-highlighted {
            color: $foreground;
            background: $primary 18%;
            text-style: none;
        }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "open")]

    @property
    def is_focused_widget(self) -> bool:
        """Whether it has the focus, now or after a card closes; `has_focus` lags behind."""
        return self.screen.focused is self

    def on_focus(self) -> None:
        """Highlight a row, so that Enter opens it."""
        if self.highlighted is None:
            self.action_first()
            self.refresh_bindings()

    def on_click(self, event: events.Click) -> None:
        """The right button goes to a row without opening it."""
        row = event.style.meta.get("option")
        if event.button == 3 and row is not None and not self.options[row].disabled:
            event.prevent_default()
            self.highlighted = row

    def action_search(self) -> None:
        """Focus the search box at once, so that the next keys reach it."""
        self.screen.set_focus(self.screen.query_one(SearchBox))

    def action_first(self) -> None:
        """Go to the first row, and show what stands above it."""
        super().action_first()
        self.scroll_home(animate=False)

    def action_cursor_up(self) -> None:
        """Go to the row above."""
        if self.highlighted in (None, nearest_enabled(self.options, 0)):
            self.action_search()
        else:
            super().action_cursor_up()

    def action_cursor_down(self) -> None:
        """Go to the row below."""
        if self.highlighted != len(self.options) - 1:
            super().action_cursor_down()


def list_bindings(group: Iterable[Command]) -> list[BindingType]:
    """The commands' bindings, in short words for the hints.

    They have priority, since what is typed after a key must not act on the list any more.
    """
    return [
        dataclasses.replace(binding, show=True, description=(binding.id or "").split("-")[-1])
        for binding in commands.bindings(group, priority=True)
    ]


def nearest_enabled(options: Sequence[Option], row: int) -> int | None:
    """The first option from `row` on that can be chosen, else the last before; None for none."""
    enabled = [index for index, option in enumerate(options) if not option.disabled]
    return next((index for index in enabled if index >= row), enabled[-1] if enabled else None)


class SearchBox(LineInput):
    """Enter asks for the first hit, as `Submitted`; Down for what is below, as `FocusBelow`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "open first result"),
        Binding("down,enter", "to_chats", "back to the chats"),
        Binding("down", "to_hits", "to the results"),
        Binding("escape", "leave", "back", priority=True),
    ]

    @dataclass
    class FocusBelow(Message):
        """The user moves to the list or the results."""

    @dataclass
    class Closed(Message):
        """The user leaves the search."""

    def __init__(self) -> None:
        super().__init__(placeholder="Search all chats", select_on_focus=False)

    def watch_value(self, value: str) -> None:
        """Update the key hints."""
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Results exist only for a non-empty query."""
        searching = bool(self.value.strip())
        if action in ("submit", "to_hits"):
            return searching
        return action != "to_chats" or not searching

    def action_to_chats(self) -> None:
        """Focus the chats."""
        self.post_message(self.FocusBelow())

    def action_to_hits(self) -> None:
        """Focus the results."""
        self.post_message(self.FocusBelow())

    def action_leave(self) -> None:
        """Cancel the search."""
        self.post_message(self.Closed())
