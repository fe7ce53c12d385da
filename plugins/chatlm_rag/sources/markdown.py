"""Markdown: a section for each heading, with the headings above it; the text stays as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from chatlm_rag.sources.decoding import decode
from chatlm_rag.sources.document import Document, Outline, Section

if TYPE_CHECKING:
    from markdown_it.token import Token

_LINE_END = re.compile(r"\r\n|\n|\r")


def read(data: bytes, source: str) -> Document:
    """The file as a document.

    Raises:
        Unreadable: it is empty or no text.
    """
    text = decode(data)
    sections = tuple(_sections(text))
    return Document(source, text, sections, markdown=True, line=1, in_lines=True, read=len(data))


def _sections(text: str) -> Iterator[Section]:
    """A heading with nothing below it belongs to the section of the next one."""
    outline = Outline()
    begin = filled = 0
    for start, end, level, heading in _headings(text):
        if text[filled:start].strip():
            yield Section(begin, start, outline.path, outline.path)
            begin = start
        outline.enter(level, heading)
        filled = end
    if text[begin:].strip():
        yield Section(begin, len(text), outline.path, outline.path)


def _headings(text: str) -> Iterator[tuple[int, int, int, str]]:
    """Start, end, level and words of each heading outside of lists and quotes."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.front_matter import front_matter_plugin

    blocks = MarkdownIt("commonmark").use(front_matter_plugin).disable("inline")
    inlines = MarkdownIt("commonmark")
    lines = [0, *(match.end() for match in _LINE_END.finditer(text)), len(text)]
    tokens = blocks.parse(text)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.map and token.level == 0:
            first, behind = token.map
            words = _words(inlines.parseInline(inline.content)[0])
            yield lines[first], lines[min(behind, len(lines) - 1)], int(token.tag[1]), words


def _words(heading: Token) -> str:
    kept = ("text", "code_inline")
    return "".join(child.content for child in heading.children or [] if child.type in kept)
