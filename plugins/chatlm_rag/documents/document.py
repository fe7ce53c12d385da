"""The text of a document and its parts, as every reader gives it."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chatlm_rag.json_fields import get_str


class UnreadableFile(Exception):
    """A file whose text cannot be had; says why, in a few words that follow its name."""


@dataclass(frozen=True)
class Section:
    """A part of a document that no passage reaches out of."""

    start: int
    end: int
    """One behind its last character."""
    place: str = ""
    """Where it is, for people: the headings above it or the page."""
    title: str = ""
    """What it is about, as far as the document says so; searched with its text."""


@dataclass(frozen=True)
class Document:
    """One text with its sections, which follow each other."""

    source: str
    """The file, by its path below the folder it was found in, or the id in a corpus."""
    text: str
    """As it was extracted; holds no lone surrogates."""
    sections: tuple[Section, ...]
    markdown: bool = False
    start_line: int = 0
    """The file's line it begins on, from 1; 0 where the file has no lines."""
    has_file_lines: bool = False
    """Whether its line ends are those of the file."""
    bytes_read: int = 0
    """The bytes of its file up to its end."""

    def line_at(self, position: int) -> int:
        """The file's line of a character; 0 where the file has no lines."""
        return self.start_line + bisect_left(self._line_ends, position)

    @cached_property
    def _line_ends(self) -> list[int]:
        ends = re.finditer("\n", self.text) if self.has_file_lines else ()
        return [end.start() for end in ends]


@dataclass(frozen=True)
class Problem:
    """Something that was left out."""

    place: str
    """Where in the file; empty for all of it."""
    reason: str
    """A few words that follow the name."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "place": self.place,
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Problem:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            place=get_str(values, "place"),
            reason=get_str(values, "reason"),
        )


def replace_surrogates(text: str) -> str:
    """The text with lone surrogates, which no file may hold, replaced."""
    return text.encode("utf-8", "replace").decode()


def heading_path(headings: Iterable[str]) -> str:
    """Headings from the highest to the nearest, as one line of at most 200 characters."""
    line = " > ".join(" ".join(heading.split()) for heading in headings if heading.strip())
    return line if len(line) <= _MAX_PATH_CHARS else line[: _MAX_PATH_CHARS - 1] + "…"


_MAX_PATH_CHARS = 200


class Outline:
    """The headings above the place that a reader has reached."""

    def __init__(self) -> None:
        self._headings: dict[int, str] = {}

    def add_heading(self, level: int, heading: str) -> None:
        """Go below a heading; 1 is the highest level."""
        above = {deep: text for deep, text in self._headings.items() if deep < level}
        self._headings = {**above, level: heading}

    @property
    def path(self) -> str:
        """The headings, joined by ` > `."""
        return heading_path(self._headings[level] for level in sorted(self._headings))


class DocumentBuilder:
    """Joins blocks of text under headings to a document's text and sections.

    A heading with nothing below it belongs to the section of the next one.
    """

    def __init__(self) -> None:
        self._outline = Outline()
        self._blocks: list[str] = []
        self._length = 0
        self._sections: list[Section] = []
        self._section_start = 0
        self._has_body = False

    def add_heading(self, level: int, text: str) -> None:
        """Begin a section."""
        if not text.strip():
            return
        if self._has_body:
            self._close_section()
        self._outline.add_heading(level, text)
        self._append(text)

    def add_block(self, text: str) -> None:
        """Add a paragraph, or whatever else stands on lines of its own."""
        if text.strip():
            self._append(text)
            self._has_body = True

    def finish(self) -> tuple[str, tuple[Section, ...]]:
        """The text and its sections."""
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
