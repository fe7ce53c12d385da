"""Widget that draws a reply as Markdown, streamed or complete."""

from __future__ import annotations

import time
import webbrowser
from bisect import bisect_left, bisect_right
from urllib.parse import unquote

from textual import events
from textual.content import Content
from textual.geometry import Region, Size
from textual.selection import Selection
from textual.strip import Strip
from textual.style import Style
from textual.timer import Timer
from textual.visual import Visual
from textual.widget import Widget

from chatlm.text import escape_controls, one_line
from chatlm.tui import clipboard
from chatlm.tui.chat.json_text import ReplyFormat, as_markdown
from chatlm.tui.chat.markdown import (
    CodeHead,
    RenderedLine,
    StreamingMarkdown,
    blank_line,
    code_blocks,
    is_web_address,
)

DRAW_TIME_SHARE = 0.1
"""Share of the streaming time that parsing and wrapping may take."""


class ReplyText(Widget):
    """Markdown without HTML, images or links to anything but the web; line ends are kept.

    One widget however long the reply: only lines that are seen are drawn, and text that is added
    costs what its own block costs.
    """

    DEFAULT_CSS = """
    ReplyText {
        width: 1fr;
        min-width: 12;
        height: auto;
        padding: 0 1 0 2;
        text-wrap: nowrap;
        text-overflow: clip;
    }
    """

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self._read(text)
        self._lines: list[RenderedLine] = []
        self._block_starts: list[int] = []
        """Index of each block's first line."""
        self._code_heads: list[int] = []
        """Index of the first line of each block of code."""
        self._wrapped_width = 0
        """Width of the lines."""
        self._pending_text: list[str] = []
        self._draw_timer: Timer | None = None
        self._next_draw_at = 0.0
        self._clicked_line = 0

    async def start_stream(self, text: str) -> None:
        """Start streaming after `text`; call once, on an empty widget."""
        await self.set_text(text)

    async def append_text(self, text: str) -> None:
        """Append text, drawn when there is time."""
        self._source.append(text)
        self._pending_text.append(text)
        wait = self._next_draw_at - time.perf_counter()
        if wait <= 0:
            self._draw_pending()
        elif self._draw_timer is None:
            self._draw_timer = self.set_timer(wait, self._draw_pending)

    async def set_text(self, text: str) -> None:
        """Show a complete text."""
        await self.end_stream()
        self._read(text)
        self._rewrap_from(0)

    def _read(self, text: str) -> None:
        """Parse a text from its beginning."""
        self._source = [text]
        """The text as it was written."""
        self._format = ReplyFormat()
        shown = self._format.feed(text)
        self._markdown = StreamingMarkdown(escape_controls(text if shown is None else shown))

    async def end_stream(self) -> None:
        """Stop streaming and draw everything appended so far."""
        if self._pending_text:
            self._draw_pending()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Return the number of lines at `width`."""
        self._wrap_lines(width)
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        """Draw one line; strips are cached until the line changes."""
        width = self.content_size.width
        self._wrap_lines(width)  # Textual asks for the height at widths that it does not use too
        if y >= len(self._lines):
            return Strip.blank(width, self.visual_style.rich_style)
        line, selection = self._lines[y], self.text_selection
        span = selection.get_span(y) if selection else None
        if span is not None:
            chosen = Style.from_styles(self.screen.get_component_styles("screen--selection"))
            end = len(line.content) if span[1] == -1 else span[1]
            return self._to_strip(line.content.stylize(chosen, span[0], end), y)
        if line.strip is None:
            line.strip = self._to_strip(line.content, y)
        return line.strip

    def _to_strip(self, content: Content, y: int) -> Strip:
        width, style = self.content_size.width, self.visual_style
        strip, *_ = Visual.to_strips(
            self, content, width, 1, style, apply_selection=False, pad=True
        )
        return strip.apply_offsets(0, y)

    def get_selection(self, selection: Selection) -> tuple[str, str]:
        """Return the selected text as drawn."""
        heads = set(self._code_heads)
        lines = ["" if y in heads else line.content.plain for y, line in enumerate(self._lines)]
        return selection.extract("\n".join(lines)), "\n"

    def notify_style_update(self) -> None:
        """Redraw all lines after a theme change."""
        super().notify_style_update()
        for line in self._lines:
            line.strip = None

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Remember which line is clicked, for the button of a block of code."""
        self._clicked_line = event.y

    def action_copy_code(self) -> None:
        """Copy the block of code whose button was clicked."""
        block = bisect_right(self._code_heads, self._clicked_line) - 1
        blocks = code_blocks(as_markdown("".join(self._source)))
        if 0 <= block < len(blocks):
            clipboard.copy(self.app, blocks[block], "the code")

    def action_link(self, address: str) -> None:
        """Open a web address in the browser, and show which one."""
        shown = one_line(unquote(address), 200)
        if not is_web_address(address):
            return
        if _has_graphical_browser():
            self.app.open_url(address)
            self.notify(shown, title="Opened in your browser", markup=False)
        else:
            self.notify(shown, title="No browser available", markup=False)

    def _draw_pending(self) -> None:
        """Draw appended text; schedule the next update by the cost of this one."""
        if self._draw_timer is not None:
            self._draw_timer.stop()
            self._draw_timer = None
        started = time.perf_counter()
        text = "".join(self._pending_text)
        self._pending_text.clear()
        shown = self._format.feed(text)
        if shown is None:  # what looked like JSON is none
            self._markdown = StreamingMarkdown(escape_controls("".join(self._source)))
            self._rewrap_from(0)
        else:
            self._rewrap_from(self._markdown.append(escape_controls(shown)))
        ended = time.perf_counter()
        self._next_draw_at = ended + (ended - started) / DRAW_TIME_SHARE

    def _rewrap_from(self, block: int) -> None:
        """Rewrap from this block on, and redraw the lines that differ."""
        before = self._lines
        kept = self._block_starts[block] if block < len(self._block_starts) else len(before)
        self._lines, self._block_starts = before[:kept], self._block_starts[:block]
        del self._code_heads[bisect_left(self._code_heads, kept) :]
        self._wrap_lines(self._wrapped_width)
        if len(self._lines) != len(before):
            self.refresh(layout=True)
            return
        pairs = enumerate(zip(before, self._lines, strict=True))
        first = next((y for y, (old, new) in pairs if old is not new), len(before))
        self.refresh(Region(0, first, self._wrapped_width, len(before) - first))

    def _wrap_lines(self, width: int) -> None:
        """Wrap unwrapped blocks, or all after a change of width."""
        if width != self._wrapped_width:
            self._wrapped_width, self._lines, self._block_starts = width, [], []
            self._code_heads = []
        for block in self._markdown.blocks[len(self._block_starts) :] if width else ():
            self._block_starts.append(len(self._lines))
            if len(self._block_starts) > 1 and not block.tight:
                self._lines += blank_line().lines(width)
            for piece in block.fragments:
                if isinstance(piece.renderable, CodeHead):
                    self._code_heads.append(len(self._lines))
                self._lines += piece.lines(width)


def _has_graphical_browser() -> bool:
    """A browser that runs in the terminal would draw over the chat."""
    try:
        return type(webbrowser.get()) is not webbrowser.GenericBrowser
    except webbrowser.Error:
        return False
