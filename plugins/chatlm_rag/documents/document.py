"""The text of a document and its sections, as every reader returns them."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chatlm_rag.json_fields import get_str


class UnreadableFile(Exception):
    """A file whose text cannot be extracted. The message is a phrase that follows the file name."""


@dataclass(frozen=True)
class Section:
    """A part of a document, such as a chapter or a page. A chunk never crosses its boundaries."""

    start: int
    """Offset of its first character."""
    end: int
    """Offset after its last character."""
    place: str = ""
    """Location as shown to the user: the headings above it, or the page."""
    title: str = ""
    """Title from the document, if any; indexed with the text."""


@dataclass(frozen=True)
class Document:
    """One text and its sections, in order."""

    source: str
    """Path of the file relative to the source's parent folder, or the id in a corpus."""
    text: str
    """The extracted text, without lone surrogates."""
    sections: tuple[Section, ...]
    markdown: bool = False
    start_line: int = 0
    """Line of the file on which it starts, from 1; 0 if the file has no lines."""
    has_file_lines: bool = False
    """Whether its lines are the lines of the file."""
    bytes_read: int = 0
    """Size in bytes of the file up to the end of this document."""

    def line_at(self, position: int) -> int:
        """Return the file's line number at a character offset; 0 if the file has no lines."""
        return self.start_line + bisect_left(self._line_ends, position)

    @cached_property
    def _line_ends(self) -> list[int]:
        ends = re.finditer("\n", self.text) if self.has_file_lines else ()
        return [end.start() for end in ends]


@dataclass(frozen=True)
class Problem:
    """A file, or a part of one, that could not be indexed."""

    place: str
    """Where in the file; empty for the whole file."""
    reason: str
    """A phrase that follows the file name."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "place": self.place,
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Problem:
        """Read the result of `to_dict`.

        Raises:
            KeyError, TypeError: a value is missing or has the wrong type.
        """
        return cls(
            place=get_str(values, "place"),
            reason=get_str(values, "reason"),
        )


@dataclass(frozen=True)
class SectionText:
    """The text of a section, before it is part of a document."""

    text: str
    place: str
    """As in `Section`."""
    title: str
    """As in `Section`."""


def join_sections(parts: Iterable[SectionText], source: str, size: int) -> Document:
    """Join sections to a document; those without text are left out.

    Args:
        parts: the sections, in order.
        source: the name of the document.
        size: of the file, in bytes.

    Raises:
        UnreadableFile: none has text.
    """
    blocks: list[str] = []
    sections: list[Section] = []
    length = 0
    for part in parts:
        if not part.text.strip():
            continue
        block = replace_surrogates(part.text).strip("\n") + "\n\n"
        title = heading_path([replace_surrogates(part.title)])
        place = heading_path([replace_surrogates(part.place)])
        sections.append(Section(length, length + len(block), place, title))
        blocks.append(block)
        length += len(block)
    if not sections:
        raise UnreadableFile("has no text")
    return Document(source, "".join(blocks), tuple(sections), bytes_read=size)


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by question marks."""
    return text.encode("utf-8", "replace").decode()


def heading_path(headings: Iterable[str]) -> str:
    """Join headings, outermost first, into one line of at most 200 characters."""
    line = " > ".join(" ".join(heading.split()) for heading in headings if heading.strip())
    return line if len(line) <= _MAX_PATH_CHARS else line[: _MAX_PATH_CHARS - 1] + "…"


_MAX_PATH_CHARS = 200


class Outline:
    """The headings above a reader's current position."""

    def __init__(self) -> None:
        self._headings: dict[int, str] = {}

    def add_heading(self, level: int, heading: str) -> None:
        """Enter a heading; level 1 is the outermost."""
        above = {deep: text for deep, text in self._headings.items() if deep < level}
        self._headings = {**above, level: heading}

    @property
    def path(self) -> str:
        """The current headings, joined by ` > `."""
        return heading_path(self._headings[level] for level in sorted(self._headings))


class DocumentBuilder:
    """Builder of a document's text and sections from headings and blocks of text.

    A heading without text below it joins the section of the next heading.
    """

    def __init__(self) -> None:
        self._outline = Outline()
        self._blocks: list[str] = []
        self._length = 0
        self._sections: list[Section] = []
        self._section_start = 0
        self._has_body = False

    def add_heading(self, level: int, text: str) -> None:
        """Start a section."""
        if not text.strip():
            return
        if self._has_body:
            self._close_section()
        self._outline.add_heading(level, text)
        self._append(text)

    def add_block(self, text: str) -> None:
        """Add a paragraph or another block, such as a table."""
        if text.strip():
            self._append(text)
            self._has_body = True

    def finish(self) -> tuple[str, tuple[Section, ...]]:
        """Return the text and its sections."""
        if self._length > self._section_start:
            self._close_section()
        return "".join(self._blocks), tuple(self._sections)

    def _append(self, text: str) -> None:
        block = replace_surrogates(text.strip("\n")) + "\n\n"
        self._blocks.append(block)
        self._length += len(block)

    def _close_section(self) -> None:
        path = self._outline.path
        self._sections.append(Section(self._section_start, self._length, path, path))
        self._section_start = self._length
        self._has_body = False
