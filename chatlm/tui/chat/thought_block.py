"""Widget that draws a thought as one line that opens; while it streams, with its last line."""

from __future__ import annotations

import dataclasses

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.style import Style
from textual.widget import Widget

from chatlm.text import one_line
from chatlm.tui import formatting
from chatlm.tui.chat.reply_text import ReplyText
from chatlm.types.parts import Reasoning

PREVIEW_CHARACTERS = 1000
"""Length of the end of a thought in which its last line is looked for."""


class ThoughtBlock(Vertical):
    """A thought, folded or open; its text is laid out only while it is open.

    Args:
        thought: as far as it goes, with what it took.
        is_open: whether its text is shown.
        is_streaming: whether it grows.
    """

    DEFAULT_CSS = """
    ThoughtBlock {
        height: auto;
        border-left: outer $foreground 30%;

        & > ReplyText { padding: 0 1; color: $foreground 75%; }
    }
    """

    def __init__(self, thought: Reasoning, *, is_open: bool, is_streaming: bool = False) -> None:
        super().__init__()
        self.thought = thought
        self._is_open = is_open
        self._is_streaming = is_streaming

    def compose(self) -> ComposeResult:
        """Yield the head and, if it is open, the text."""
        yield ThoughtHead(self.thought, is_open=self._is_open, is_streaming=self._is_streaming)
        if self._is_open:
            yield ReplyText(self.thought.text)

    async def append_text(self, text: str, cost: Reasoning) -> None:
        """Append streamed text; `cost` is what the whole thought took so far."""
        self.thought = dataclasses.replace(cost, text=self.thought.text + text)
        self._is_streaming = True
        self._update_head()
        for shown in self.query(ReplyText):
            await shown.append_text(text)

    async def show_thought(self, thought: Reasoning) -> None:
        """Show a thought that does not grow any more."""
        is_new = thought.text != self.thought.text or self._is_streaming
        self.thought, self._is_streaming = thought, False
        self._update_head()
        for shown in self.query(ReplyText) if is_new else ():
            await shown.set_text(thought.text)

    async def set_open(self, is_open: bool) -> None:
        """Show or hide the text."""
        self._is_open = is_open
        self._update_head()
        shown = self.query(ReplyText)
        if is_open and not shown:
            await self.mount(ReplyText(self.thought.text))
        elif not is_open:
            await shown.remove()

    async def end_stream(self) -> None:
        """Draw all of it as it is, since it does not grow any more."""
        self._is_streaming = False
        self._update_head()
        for shown in self.query(ReplyText):
            await shown.end_stream()

    def _update_head(self) -> None:
        for head in self.query(ThoughtHead):
            head.show(self.thought, is_open=self._is_open, is_streaming=self._is_streaming)


class ThoughtHead(Widget):
    """The line that names a thought, and the last line of one that streams folded."""

    DEFAULT_CSS = """
    ThoughtHead {
        height: 1;
        padding: 0 1;
        color: $text-muted;
        link-style: none;
        link-color: $text-muted;
        link-background: transparent;

        &.-preview { height: 2; }
        &:hover { color: $text; link-color: $text; }
    }
    """

    def __init__(self, thought: Reasoning, *, is_open: bool, is_streaming: bool) -> None:
        super().__init__()
        self.show(thought, is_open=is_open, is_streaming=is_streaming)

    def show(self, thought: Reasoning, *, is_open: bool, is_streaming: bool) -> None:
        """Show this state of the thought."""
        self._title = formatting.thought_title(thought, is_streaming=is_streaming)
        self._mark = "▾" if is_open else "▸"
        self._preview = last_line(thought.text) if is_streaming and not is_open else ""
        self.set_class(bool(self._preview), "-preview")
        self.refresh()

    def render(self) -> Content:
        """Draw the title and the preview, both on one line each."""
        toggle = Style.from_meta({"@click": "screen.command('thoughts')"})
        lines = [Content.assemble((f"{self._mark} {self._title}", toggle))]
        if self._preview:
            end = fit_end(self._preview, self.content_size.width)
            lines.append(Content.styled(end, "italic"))
        return Content("\n").join(lines)


def last_line(text: str) -> str:
    """Return the last line that is not blank, without control characters."""
    return one_line(text[-PREVIEW_CHARACTERS:].rstrip().rpartition("\n")[2], PREVIEW_CHARACTERS)


def fit_end(text: str, width: int) -> str:
    """Return the end of a text that fits, with … in place of what is cut."""
    if cell_len(text) <= width:
        return text
    start = len(text)
    room = width - 1
    while start and (room := room - cell_len(text[start - 1])) >= 0:
        start -= 1
    return f"…{text[start:].lstrip()}"
