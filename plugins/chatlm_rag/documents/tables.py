"""Tables as Markdown, so that a part of a long one can be given its header."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chatlm_rag.documents.document import Document, Section
from chatlm_rag.documents.text_files import decode, read_plain

MAX_HEADER_CHARS = 300
"""Parts of a table with a longer header are not given it, since it would fill the passage."""

_RULE_CHARS = frozenset(" \t:|-")

_CELL_END = re.compile(r"(?<!\\)\|")

_SNIFF_CHARS = 10_000


@dataclass(frozen=True)
class TableBody:
    """The rows below the header of a table in a text."""

    start: int
    """Offset of the first row."""
    end: int
    """Offset after the last row."""
    header: str
    """The header and the rule below it, two lines of Markdown."""


def find_tables(text: str) -> Iterator[TableBody]:
    """Yield the bodies of the Markdown tables in a text, but not of those with a long header."""
    if "|" not in text:
        return
    header, start, at = "", -1, 0
    above = ""  # the line before, if it is a row
    for line in text.splitlines(keepends=True):
        row = line.strip() if line.startswith("|") else ""
        if not row and start >= 0:
            yield TableBody(start, at, header)
            start = -1
        at += len(line)
        if start < 0 and row and above and "-" in row and set(row) <= _RULE_CHARS:
            header = markdown_table([split_row(above)])
            start = at if len(header) <= MAX_HEADER_CHARS else -1
            row = ""
        above = row
    if 0 <= start < at:
        yield TableBody(start, at, header)


def split_row(row: str) -> list[str]:
    """Return the cells of a row of a Markdown table."""
    cells = _CELL_END.split(row.strip().removeprefix("|").removesuffix("|"))
    return [cell.strip().replace("\\|", "|") for cell in cells]


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, of which the first is the header, as a Markdown table.

    Args:
        rows: the cells of each row; at least one row.
    """
    first, *others = (_row(cells) for cells in rows)
    return "\n".join([first, "|" + "---|" * max(len(rows[0]), 1), *others])


def has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first of several rows names each of several columns."""
    return (
        len(rows) > 1
        and len(rows[0]) > 1
        and all(cell.strip() for cell in rows[0])
        and len(set(rows[0])) == len(rows[0])
    )


def read_csv(data: bytes, source: str) -> Document:
    """Read a file of comma- or tab-separated values as one table.

    Raises:
        UnreadableFile: it is empty or not text.
    """
    text = decode(data)
    try:
        dialect: type[csv.Dialect] | csv.Dialect = csv.Sniffer().sniff(
            text[:_SNIFF_CHARS], delimiters=",;\t|"
        )
    except csv.Error:
        dialect = csv.excel_tab if "\t" in text[:_SNIFF_CHARS] else csv.excel
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), dialect) if any(row)]
    except csv.Error:  # such as a field of more than 100,000 characters
        return read_plain(data, source)
    if not rows:
        return read_plain(data, source)
    table = markdown_table(rows) + "\n"
    # the rule below the header has no line in the file, so that the row after it is in line 2
    one_line_each = len(rows) == len(text.splitlines())
    return Document(
        source,
        table,
        (Section(0, len(table)),),
        start_line=0,
        has_file_lines=one_line_each,
        bytes_read=len(data),
    )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
