"""The saved chats, newest first, read from the store a page at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from textual import on
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from chatlm.store import Store, Summary
from chatlm.text import one_line

PAGE = 100
"""Chats that are read at once."""
NEAR_END = 10


class ChatList(OptionList):
    """Enter or a click opens a chat.

    Args:
        store: where the chats are.
        now: the present moment, for the headings.
    """

    DEFAULT_CSS = """
    ChatList {
        width: 32;
        max-width: 50%;
        height: 1fr;
        border: none;
        padding: 1 0 0 1;
        text-wrap: nowrap;
        text-overflow: ellipsis;
        background: $foreground 4%;
        scrollbar-size-vertical: 1;

        &:focus { border: none; background: $foreground 7%; }
        & > .option-list--option { padding: 0; }
        & > .option-list--option-disabled { color: $text-muted; }
        & > .option-list--option-highlighted { background: $foreground 10%; }
        &:focus > .option-list--option-highlighted { background: $primary; }
    }
    """

    @dataclass
    class ChatOpened(Message):
        """The person chose this chat."""

        conversation_id: int

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        super().__init__(id="chats", markup=False)
        self._store = store
        self._now = now
        self._read = 0
        self._group = ""
        self._current: int | None = None
        self._answering: int | None = None

    def reload(self, current: int | None, answering: int | None) -> None:
        """Read the chats again, and mark the one on the screen and the one that is answering.

        Raises:
            StoreError: the chats cannot be read.
        """
        chats = self._store.conversations(limit=max(self._read, PAGE))
        kept = self.highlighted_option
        self._current, self._answering = current, answering
        self._read, self._group = 0, ""
        self.clear_options()
        self._append(chats)
        if not chats:
            self.add_option(Option("No chats yet", disabled=True))
        wanted = kept.id if kept is not None and self.has_focus else str(current)
        ids = [option.id for option in self.options]
        if wanted in ids:
            self.highlighted = ids.index(wanted)

    def on_focus(self) -> None:
        """Have something for Enter to open."""
        if self.highlighted is None:
            self.action_first()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Read the next page before the end is reached."""
        super().watch_scroll_y(old_value, new_value)
        more = self._read and self._read % PAGE == 0
        if more and new_value + self.size.height > self.virtual_size.height - NEAR_END:
            self._append(self._store.conversations(limit=PAGE, offset=self._read))

    @on(OptionList.OptionSelected)
    def _open(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option.id is not None:
            self.post_message(self.ChatOpened(int(event.option.id)))

    def _append(self, chats: list[Summary]) -> None:
        self._read += len(chats)
        options = []
        for chat in chats:
            group = day_group(chat.updated, self._now())
            if group != self._group:
                blank = "\n" if self._group else ""
                options.append(Option(Content(f"{blank}{group}"), disabled=True))
                self._group = group
            options.append(Option(self._row(chat), id=str(chat.id)))
        self.add_options(options)

    def _row(self, chat: Summary) -> Content:
        title = one_line(chat.title, 60) or "Untitled"
        if chat.id == self._answering:
            mark = ("● ", "$text-primary")
        elif chat.unfinished:
            mark = ("◐ ", "$text-warning")
        else:
            mark = ("  ", "")
        return Content.assemble(mark, (title, "bold" if chat.id == self._current else ""))


def day_group(when: datetime, now: datetime) -> str:
    """The heading a chat stands under, by the person's own calendar day."""
    days = (now.astimezone().date() - when.astimezone().date()).days
    if days <= 0:
        return "Today"
    return "Yesterday" if days == 1 else "Earlier"
