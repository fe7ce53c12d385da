"""What a search of all chats found: titles first, then the words where they were said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from chatlm.store import Hit
from chatlm.text import one_line, visible
from chatlm.tui import commands
from chatlm.tui.widgets import chat_rows
from chatlm.tui.widgets.chat_list import ChatList
from chatlm.tui.widgets.row_list import RowList, keys
from chatlm.tui.widgets.search_box import SearchBox

BEFORE, WIDTH = 16, 64
"""Characters of a snippet before its first hit, and in all: some three rows of the list."""

FOUND = "bold underline $text"
"""How the words that were looked for are drawn."""

SPEAKERS = {"user": "you", "assistant": "reply", "system": "system"}


class HitRow(Option):
    """One hit."""

    def __init__(self, prompt: Content, hit: Hit) -> None:
        super().__init__(prompt)
        self.hit = hit


class HitList(RowList):
    """Enter or a click opens the chat at the turn that was found."""

    DEFAULT_CSS = """
    HitList { display: none; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *keys([commands.ALL["list-search"]]),
        Binding("escape", "leave", "back", priority=True),
    ]

    def __init__(self) -> None:
        super().__init__(id="hits", markup=False)
        self.hits: Sequence[Hit] = ()
        """What is shown."""

    def show(self, hits: Sequence[Hit], words: str) -> None:
        """Replace what is shown by these hits, or say that no chat holds the words."""
        row = self.highlighted if hits == self.hits else None
        self.hits = hits
        self.clear_options()
        self.add_options(_rows(hits) if hits else [Option(_nothing(words), disabled=True)])
        self.highlighted = row

    def action_leave(self) -> None:
        """Give the search up."""
        self.post_message(SearchBox.Left())

    @on(OptionList.OptionSelected)
    def _open(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if isinstance(event.option, HitRow):
            self.post_message(opened(event.option.hit))


def opened(hit: Hit) -> ChatList.ChatOpened:
    """What is posted to open the chat at the turn that was found."""
    return ChatList.ChatOpened(hit.conversation_id, hit.turn_id)


def _nothing(words: str) -> Content:
    return Content(
        f"No chat says “{one_line(words, 60)}”.\n\nOne message must hold all the"
        " words; the last may be unfinished."
    )


def _rows(hits: Iterable[Hit]) -> Iterator[Option]:
    """Hits with headings; a chat's title stands above its first of several."""
    group, chat = "", 0
    for hit in hits:
        heading = "Titles" if hit.role is None else "Messages"
        if heading != group:
            yield Option(Content(f"\n{heading}" if group else heading), disabled=True)
            group, chat = heading, 0
        lines = []
        if hit.role is not None and hit.conversation_id != chat:
            lines.append(Content.styled(one_line(hit.title, 28) or chat_rows.UNTITLED, "bold"))
        chat = hit.conversation_id
        lines.append(_said(hit))
        yield HitRow(Content("\n").join(lines), hit)


def _said(hit: Hit) -> Content:
    """The words around the first hit, every hit marked."""
    start, end = _window(hit.snippet, *(hit.spans[0] if hit.spans else (0, 0)))
    parts: list[str | tuple[str, str]] = []
    if hit.role is not None:
        parts.append((f"{SPEAKERS[hit.role]} ", "$foreground 75%"))
    parts.append("…" if start else "")
    at = start
    for left, right in hit.spans:
        parts.append(visible(hit.snippet[at : min(left, end)]))
        parts.append((visible(hit.snippet[left : min(right, end)]), FOUND))
        at = right
    parts.append(visible(hit.snippet[at:end]))
    parts.append("…" if end < len(hit.snippet) else "")
    return Content.assemble(*parts)


def _window(snippet: str, left: int, right: int) -> tuple[int, int]:
    """Where the part around a hit begins and ends, between words where there are spaces."""
    start = snippet.rfind(" ", 0, max(left - BEFORE, 0)) + 1
    end = start + WIDTH
    if end >= len(snippet):
        return start, len(snippet)
    space = snippet.rfind(" ", start, end)
    return start, space if space > right else end
