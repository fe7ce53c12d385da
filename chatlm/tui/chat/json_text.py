"""Indent a reply that is JSON, such as `/schema` makes, while it is written."""

from __future__ import annotations

import re

INDENT = "  "

FENCE = "```json\n"
"""Makes a block of code of everything after it."""

_BEGINS_JSON = re.compile(r'\s*(\{\s*(["}]|$)|\[\s*([\[{"]|$)|$)')
"""Objects, and arrays of more than numbers: `[1]` at the start of a reply is a citation."""

_SPACE = " \t\r\n"
_BARE = frozenset("0123456789+-.eEtrufalsn")
"""Characters of numbers and of `true`, `false` and `null`."""

_CLOSING = {"{": "}", "[": "]"}


class JsonIndenter:
    """Indents one object or array that comes in pieces.

    Only white space between values changes. What was returned is never taken back: a longer text
    only adds to it.
    """

    def __init__(self) -> None:
        self._open: list[str] = []
        """The closing brackets that are due."""
        self._in_string = self._escaped = self._ended = False
        self._last = ""
        """The last character outside white space and strings."""
        self._gap = ""
        """White space to write before the next character."""

    def feed(self, text: str) -> str | None:
        """Return the next piece indented; None if the text so far begins no JSON value."""
        out: list[str] = []
        for character in text:
            if self._in_string:
                self._follow_string(character)
            elif character in _SPACE:
                continue
            elif not self._follow_structure(character, out):
                return None
            out.append(character)
        return "".join(out)

    def _follow_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False

    def _follow_structure(self, character: str, out: list[str]) -> bool:
        """Write the white space before a character; return whether it can stand here."""
        if self._ended or not (self._open or character in _CLOSING):
            return False
        if character in _CLOSING.values():
            if self._open.pop() != character:
                return False
            out.append("" if self._last in _CLOSING else self._new_line())
            self._gap, self._ended = "", not self._open
        elif character in _CLOSING or character == '"' or character in _BARE:
            out.append(self._gap)
            self._gap = ""
            self._in_string = character == '"'
            if character in _CLOSING:
                self._open.append(_CLOSING[character])
                self._gap = self._new_line()
        elif character in ",:":
            self._gap = " " if character == ":" else self._new_line()
        else:
            return False
        self._last = character
        return True

    def _new_line(self) -> str:
        return "\n" + INDENT * len(self._open)


class ReplyFormat:
    """Turns a reply that comes in pieces into Markdown: JSON into a block of code."""

    def __init__(self) -> None:
        self._start: str | None = ""
        """The text while it is open whether it begins JSON; None afterwards."""
        self._indenter: JsonIndenter | None = JsonIndenter()
        """None if the text is no JSON."""
        self._has_fence = False

    def feed(self, text: str) -> str | None:
        """Return the Markdown to append; None if the text turned out to be no JSON.

        After None the whole text is Markdown, and so is everything that follows.
        """
        if self._indenter is None:
            return text
        piece = self._indenter.feed(text) if self._may_be_json(text) else None
        if piece is None:
            self._indenter = None
            return None if self._has_fence else (self._start or text)
        if not piece or self._has_fence:
            return piece
        self._has_fence = True
        return FENCE + piece

    def _may_be_json(self, text: str) -> bool:
        if self._start is None:
            return True
        self._start += text
        begins = _BEGINS_JSON.match(self._start)
        if begins and begins.end() < len(self._start):
            self._start = None
        return begins is not None


def as_markdown(text: str) -> str:
    """Return a whole reply as Markdown."""
    shown = ReplyFormat().feed(text)
    return text if shown is None else shown
