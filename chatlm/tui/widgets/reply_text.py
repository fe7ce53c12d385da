"""A reply as Markdown, streamed or whole; the one way from model text to a widget."""

from __future__ import annotations

import asyncio
import webbrowser
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from textual import on
from textual.widgets import Markdown
from textual.widgets.markdown import MarkdownStream

from chatlm.text import one_line, visible


class ReplyText(Markdown):
    """Markdown without HTML, images or links to anything but the web; line ends are kept."""

    DEFAULT_CSS = """
    ReplyText {
        padding: 0 1 0 2;
        background: transparent;

        & > MarkdownBlock:last-child { margin-bottom: 0; }
        MarkdownH1, MarkdownH2, MarkdownH3, MarkdownH4, MarkdownH5, MarkdownH6 {
            content-align: left middle;
            text-align: left;
            color: $text-primary;
            text-style: bold;
            border: none;
            padding: 0;
            margin: 0 0 1 0;
        }
        & > MarkdownFence:last-child { margin-bottom: 1; }
        MarkdownFence { margin: 0 0 1 0; background: $foreground 6%; }
        MarkdownFence > Label { padding: 0 1; }
        MarkdownBlockQuote { margin: 0 0 1 0; background: transparent; }
    }
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(visible(text), parser_factory=parser, open_links=False)
        self._stream: MarkdownStream | None = None

    async def begin(self, text: str) -> None:
        """Start to stream after the `text` that is there already; once, on an empty widget."""
        await self.append(visible(text))
        self._stream = Markdown.get_stream(self)
        await asyncio.sleep(0)  # stopping a stream whose task never ran raises CancelledError

    async def grow(self, text: str) -> None:
        """Add to the end, drawn when there is time."""
        if self._stream is not None:
            await self._stream.write(visible(text))

    async def end(self) -> None:
        """Stop streaming; what was added is drawn when this returns."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.stop()

    @on(Markdown.LinkClicked)
    def open_link(self, event: Markdown.LinkClicked) -> None:
        """Open a web address in the person's browser, and say which."""
        event.stop()
        address = one_line(event.href, 200)
        if not is_web_address(event.href):
            return
        if _browser_has_a_window():
            self.app.open_url(event.href)
            self.notify(address, title="Opened in your browser", markup=False)
        else:
            self.notify(address, title="No browser window here", markup=False)


def parser() -> MarkdownIt:
    """The Markdown that replies are read as."""
    markdown = MarkdownIt("gfm-like", {"html": False}).disable("image")
    markdown.core.ruler.push("keep_line_ends", _keep_line_ends)
    markdown.core.ruler.push("keep_visible", _keep_visible)
    markdown.validateLink = is_web_address  # type: ignore[method-assign]  # markdown-it's own way
    return markdown


def is_web_address(url: str) -> bool:
    """Whether the link leads to the web: http or https, with a host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _keep_line_ends(state: StateCore) -> None:
    """Models end lines of verse or addresses with one newline and mean it."""
    for token in state.tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"


def _keep_visible(state: StateCore) -> None:
    """Markdown reads `&#x202e;` as the character, after the text was made safe to draw."""
    for token in state.tokens:
        for child in token.children or ():
            child.content = visible(child.content)


def _browser_has_a_window() -> bool:
    """A browser that runs in the terminal would draw over the chat."""
    try:
        return type(webbrowser.get()) is not webbrowser.GenericBrowser
    except webbrowser.Error:
        return False
