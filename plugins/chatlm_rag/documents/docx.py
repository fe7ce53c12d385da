"""Extract paragraphs, tables and headings from DOCX files; macros, images and links are ignored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from chatlm_rag.documents.archives import check_archive
from chatlm_rag.documents.document import Document, DocumentBuilder, UnreadableFile
from chatlm_rag.documents.tables import has_header, markdown_table

_HEADING = re.compile(r"heading ([1-9])", re.I)


def read(path: Path, source: str) -> Document:
    """Read a DOCX file.

    Raises:
        UnreadableFile: it is not a DOCX file, is password-protected, too large when unpacked, or
            has no text.
        OSError: it cannot be read.
    """
    from docx import Document as open_docx
    from docx.table import Table

    check_archive(path, "a DOCX file")
    builder = DocumentBuilder()
    try:
        for block in open_docx(str(path)).iter_inner_content():
            if isinstance(block, Table):
                builder.add_block(_table_text(block))
                continue
            level = _heading_level(block)
            if level:
                builder.add_heading(level, " ".join(block.text.split()))
            else:
                builder.add_block(block.text)
    except OSError:
        raise
    except Exception as error:  # a damaged file can make python-docx raise anything
        raise UnreadableFile(f"is damaged ({type(error).__name__})") from error
    text, sections = builder.finish()
    if not sections:
        raise UnreadableFile("has no text")
    return Document(source, text, sections, bytes_read=path.stat().st_size)


def _heading_level(paragraph: Any) -> int:
    name = (paragraph.style.name or "") if paragraph.style is not None else ""
    heading = _HEADING.fullmatch(name)
    return int(heading[1]) if heading else int(name == "Title")


def _table_text(table: Any) -> str:
    rows = []
    for row in table.rows:
        # merged cells are listed once for each column they span
        cells = list({id(cell._tc): cell for cell in row.cells}.values())
        rows.append([" ".join(cell.text.split()) for cell in cells])
    return markdown_table(rows) if has_header(rows) else "\n".join(map(" | ".join, rows))
