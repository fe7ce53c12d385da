"""Decode text files, and split Markdown into sections at its headings."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from chatlm_rag.documents.document import (
    Document,
    Outline,
    Section,
    UnreadableFile,
    replace_surrogates,
)

if TYPE_CHECKING:
    from markdown_it.token import Token


_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""UTF-32 before UTF-16: its little-endian mark starts with that of UTF-16."""


_SNIFF_BYTES = 65_536


def decode(data: bytes, declared_encoding: str = "") -> str:
    """Decode text by its byte order mark, as UTF-8, as declared, or by the most likely encoding.

    Raises:
        UnreadableFile: it is empty, binary, or in an unknown encoding.
    """
    if not data.strip():
        raise UnreadableFile("is empty")
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return replace_surrogates(data.decode(encoding, "replace"))
    if b"\0" in data[:_SNIFF_BYTES]:
        raise UnreadableFile("is binary")
    for encoding in ("utf-8", declared_encoding):
        try:
            if encoding:
                return replace_surrogates(data.decode(encoding))
        except (UnicodeError, LookupError):
            continue
    return _guess_encoding(data)


def _guess_encoding(data: bytes) -> str:
    from charset_normalizer import from_bytes

    sample = data[:_SNIFF_BYTES]
    controls = sum(byte < 9 or 13 < byte < 32 for byte in sample)
    best = from_bytes(sample).best() if controls * 100 < len(sample) else None
    if best is None:
        raise UnreadableFile("is binary or in an unknown encoding")
    try:
        return replace_surrogates(data.decode(best.encoding))
    except (UnicodeDecodeError, LookupError):
        return replace_surrogates(data.decode("cp1252", "replace"))


def read_plain(data: bytes, source: str) -> Document:
    """Read a plain text file as one section.

    Raises:
        UnreadableFile: it is empty or not text.
    """
    text = decode(data)
    return Document(
        source,
        text,
        (Section(0, len(text)),),
        start_line=1,
        has_file_lines=True,
        bytes_read=len(data),
    )


_LINE_END = re.compile(r"\r\n|\n|\r")


def read_markdown(data: bytes, source: str) -> Document:
    """Read a Markdown file with a section for each heading.

    Raises:
        UnreadableFile: it is empty or not text.
    """
    text = decode(data)
    sections = tuple(_sections(text))
    return Document(
        source,
        text,
        sections,
        markdown=True,
        start_line=1,
        has_file_lines=True,
        bytes_read=len(data),
    )


def _sections(text: str) -> Iterator[Section]:
    """Yield the sections; a heading without text below it joins the section of the next one."""
    outline = Outline()
    section_start = body_start = 0
    for start, end, level, heading in _headings(text):
        if text[body_start:start].strip():
            yield Section(section_start, start, outline.path, outline.path)
            section_start = start
        outline.add_heading(level, heading)
        body_start = end
    if text[section_start:].strip():
        yield Section(section_start, len(text), outline.path, outline.path)


def _headings(text: str) -> Iterator[tuple[int, int, int, str]]:
    """Yield start, end, level and text of each heading that is not inside a list or quote."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.front_matter import front_matter_plugin

    blocks = MarkdownIt("commonmark").use(front_matter_plugin).disable("inline")
    inlines = MarkdownIt("commonmark")
    lines = [0, *(match.end() for match in _LINE_END.finditer(text)), len(text)]
    tokens = blocks.parse(text)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.map and token.level == 0:
            first, last = token.map
            heading = _heading_text(inlines.parseInline(inline.content)[0])
            yield lines[first], lines[min(last, len(lines) - 1)], int(token.tag[1]), heading


def _heading_text(heading: Token) -> str:
    types = ("text", "code_inline")
    return "".join(child.content for child in heading.children or [] if child.type in types)
