"""Extract the text of workbooks (XLSX) and presentations (PPTX).

The libraries are used directly, rather than markitdown, which uses the same ones: its Markdown does
not say in a form of its own which sheet or slide a text is from.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatlm_rag.documents.archives import check_archive
from chatlm_rag.documents.document import Document, SectionText, UnreadableFile, join_sections
from chatlm_rag.documents.tables import has_header, markdown_table

MAX_COLUMNS = 200
"""Columns that are read of a sheet."""


def read_workbook(path: Path, source: str) -> Document:
    """Read an XLSX file: the values of each sheet as a table, formulas as last computed.

    Raises:
        UnreadableFile: it is not an XLSX file, damaged, password-protected, too large when
            unpacked, or has no text.
        OSError: it cannot be read.
    """
    from openpyxl import load_workbook

    check_archive(path, "an XLSX file")
    try:
        book = load_workbook(path, read_only=True, data_only=True, keep_links=False)
        parts = [
            SectionText(_sheet_text(sheet), f"sheet {sheet.title}", sheet.title)
            for sheet in book.worksheets
        ]
    except OSError:
        raise
    except Exception as error:  # a damaged file can make openpyxl raise anything
        raise UnreadableFile(f"is damaged ({type(error).__name__})") from error
    return join_sections(parts, source, path.stat().st_size)


def read_presentation(path: Path, source: str) -> Document:
    """Read a PPTX file: the text and tables of each slide, and the speaker's notes.

    Raises:
        UnreadableFile: it is not a PPTX file, damaged, password-protected, too large when
            unpacked, or has no text.
        OSError: it cannot be read.
    """
    from pptx import Presentation

    check_archive(path, "a PPTX file")
    try:
        parts = [
            SectionText("\n\n".join(_slide_texts(slide)), f"slide {number}", _slide_title(slide))
            for number, slide in enumerate(Presentation(str(path)).slides, 1)
        ]
    except OSError:
        raise
    except Exception as error:  # a damaged file can make python-pptx raise anything
        raise UnreadableFile(f"is damaged ({type(error).__name__})") from error
    return join_sections(parts, source, path.stat().st_size)


def _sheet_text(sheet: Any) -> str:
    rows = [
        [_cell_text(value) for value in row]
        for row in sheet.iter_rows(max_col=MAX_COLUMNS, values_only=True)
    ]
    rows = [row for row in rows if any(row)]
    width = max((n for row in rows for n, cell in enumerate(row, 1) if cell), default=0)
    rows = [row[:width] for row in rows]
    if not rows:
        return ""
    # lines such as the title of a report may stand above the table
    start = next((n for n, row in enumerate(rows) if all(row)), 0)
    above = ["  ".join(filter(None, row)) for row in rows[:start]]
    return "\n".join([*above, *([""] if above else []), markdown_table(rows[start:])])


def _cell_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(value).strip()


def _slide_texts(slide: Any) -> Iterator[str]:
    for shape in _shapes(slide.shapes):
        if shape.has_text_frame:
            yield shape.text_frame.text
        elif getattr(shape, "has_table", False):
            rows = [[cell.text for cell in row.cells] for row in shape.table.rows]
            yield markdown_table(rows) if has_header(rows) else "\n".join(map(" | ".join, rows))
    if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame) is not None:
        yield notes.text


def _shapes(shapes: Any) -> Iterator[Any]:
    """Yield the shapes of a slide, also those within groups."""
    for shape in shapes:
        if hasattr(shape, "shapes"):
            yield from _shapes(shape.shapes)
        else:
            yield shape


def _slide_title(slide: Any) -> str:
    title = slide.shapes.title
    return " ".join(title.text.split()) if title is not None else ""
