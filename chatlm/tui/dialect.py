"""The Markdown that replies are read as: no HTML, no images, links to the web only."""

from __future__ import annotations

from functools import cache
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore

from chatlm.text import visible


@cache
def parser() -> MarkdownIt:
    """The Markdown that replies are read as; it keeps nothing of what it read."""
    markdown = MarkdownIt("gfm-like", {"html": False}).disable("image")
    markdown.core.ruler.push("keep_line_ends", _keep_line_ends)
    markdown.core.ruler.push("keep_visible", _keep_visible)
    markdown.validateLink = is_web_address  # type: ignore[method-assign]  # markdown-it's own way
    return markdown


def code_blocks(text: str) -> list[str]:
    """The code in a reply as the model wrote it, without fences, indentation and last line end."""
    tokens = parser().parse(text)
    return [token.content.rstrip("\n") for token in tokens if token.type in ("fence", "code_block")]


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
