"""Splits a passage into what can be quoted of it: sentences, items, rows of tables, lines of code.

Headings, rules and entries of a table of contents are left out. Pure functions over texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LONGEST = 400
"""Characters of a sentence; where one is longer, lines are taken for it."""

_FENCE = re.compile(r"\s*(```|~~~)")
_HEADING = re.compile(r"#{1,6}\s")
_ITEM = re.compile(r"\A(?:[-*+•]|\d{1,3}[.)])\s+")
_ROW = re.compile(r"\|")
_RULE = re.compile(r"[\s|:=*_-]*")
_ONLY_A_LINK = re.compile(r"\[[^\]]*\]\([^)]*\)")
_LEADS = re.compile(r"[?:][*_\"'”’)]*\Z")
_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z\s])")


def statements(text: str) -> Iterator[str]:
    """Each statement of a text in its order, on one line, without its list or table marks.

    A question says nothing by itself, nor does what ends in a colon: it stands before what follows.
    """
    lead = ""
    for part in _parts(text):
        said = f"{lead} {part}" if lead else part
        lead = said if _LEADS.search(part) else ""
        if not lead:
            yield said


def _parts(text: str) -> Iterator[str]:
    for block in _blocks(text):
        whole = " ".join(block)
        sentences = _END.split(whole)
        for part in block if max(map(len, sentences)) > LONGEST else sentences:
            if any(map(str.isalnum, part)) and not _ONLY_A_LINK.fullmatch(part):
                yield part


def _blocks(text: str) -> Iterator[list[str]]:
    """The lines that belong together: of a paragraph, an item, a row, or one of code."""
    block: list[str] = []
    row = fenced = False
    for line in text.splitlines():
        words = " ".join(line.split())
        if _FENCE.match(line):
            begins, fenced = True, not fenced
            words = ""
        elif fenced:
            begins, words = True, f"`{words}`" if words and "`" not in words else words
        elif words and _RULE.fullmatch(words):  # a row above it is the head of a table
            block = [] if row else block
            begins, words = True, ""
        else:
            begins = row or bool(_ROW.match(words) or _ITEM.match(words) or _HEADING.match(words))
            row = bool(_ROW.match(words))
        if block and (begins or not words):
            yield block
            block = []
        if words and not _HEADING.match(words):
            block.append(_cells(words) if row else _ITEM.sub("", words, count=1))
    if block:
        yield block


def _cells(row: str) -> str:
    return ", ".join(cell.strip() for cell in row.strip("|").split("|") if cell.strip())
