"""Split passages into statements: sentences, list items, table rows and lines of code.

A row of a table with three or more columns names them: `Month: May, Rent: 940 €`; in one with two,
the first cell usually says what the second one is about.
Headings, rules and table-of-contents entries are no statements.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from chatlm_rag.documents.tables import split_row
from chatlm_rag.reading.sentences import split_sentences

MAX_SENTENCE_CHARS = 400
"""A block with a longer sentence is split into lines instead of sentences."""


MIN_NAMED_COLUMNS = 3
"""Columns of a table from which they are named in each row."""


_FENCE = re.compile(r"\s*(```|~~~)")


_HEADING = re.compile(r"#{1,6}\s")


_LIST_ITEM = re.compile(r"\A(?:[-*+•]|\d{1,3}[.)])\s+")


_TABLE_ROW = re.compile(r"\|")


_RULE = re.compile(r"[\s|:=*_-]*")


_ONLY_A_LINK = re.compile(r"\[[^\]]*\]\([^)]*\)")


_LEAD_IN = re.compile(r"[?:][*_\"'”’)]*\Z|\A\*\*[^*]{1,60}\.\*\*\Z")


def statements(text: str) -> Iterator[str]:
    """Yield the statements of a text in order, each on one line without list or table markup.

    A question, a phrase that ends in a colon, and a bold one such as `**Tomatoes.**` is not a
    statement by itself; it is joined to the sentence that follows.
    """
    lead_in = ""
    for part in _sentences(text):
        statement = f"{lead_in} {part}" if lead_in else part
        lead_in = statement if _LEAD_IN.search(part) else ""
        if not lead_in:
            yield statement


def _sentences(text: str) -> Iterator[str]:
    for block in _blocks(text):
        sentences = split_sentences(" ".join(block))
        for part in (
            block if max(map(len, sentences), default=0) > MAX_SENTENCE_CHARS else sentences
        ):
            if any(map(str.isalnum, part)) and not _ONLY_A_LINK.fullmatch(part):
                yield part


def _blocks(text: str) -> Iterator[list[str]]:
    """Yield the lines of each paragraph, list item, table row or line of code."""
    block: list[str] = []
    columns: list[str] = []
    header = ""
    is_row = in_code = False
    for line in text.splitlines():
        words = " ".join(line.split())
        if _FENCE.match(line):
            starts_block, in_code = True, not in_code
            words = ""
        elif in_code:
            starts_block, words = True, f"`{words}`" if words and "`" not in words else words
        elif words and _RULE.fullmatch(words):  # a row above a rule is the header of a table
            if is_row and "-" in words and not columns:
                columns, block = split_row(header), []
            starts_block, words = True, ""
        else:
            starts_block = is_row or bool(
                _TABLE_ROW.match(words) or _LIST_ITEM.match(words) or _HEADING.match(words)
            )
            is_row = bool(_TABLE_ROW.match(words))
            header = line if is_row else ""
            columns = columns if is_row else []
        if block and (starts_block or not words):
            yield block
            block = []
        if words and not _HEADING.match(words):
            block.append(
                _join_cells(words, columns) if is_row else _LIST_ITEM.sub("", words, count=1)
            )
    if block:
        yield block


def _join_cells(row: str, columns: Sequence[str]) -> str:
    cells = split_row(row)
    if len(cells) == len(columns) >= MIN_NAMED_COLUMNS:
        cells = [
            f"{name}: {cell}" if name and cell else cell
            for name, cell in zip(columns, cells, strict=True)
        ]
    return ", ".join(filter(None, cells))
