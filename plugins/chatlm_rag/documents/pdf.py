"""Extract the text of PDF pages."""

from __future__ import annotations

from pathlib import Path

from chatlm_rag.documents.document import (
    Document,
    Section,
    UnreadableFile,
    heading_path,
    replace_surrogates,
)


def read(path: Path, source: str) -> Document:
    """Read a PDF file.

    Raises:
        UnreadableFile: it is password-protected or has no text, like scanned pages.
        Exception: anything, for a damaged file.
    """
    from pypdf import PdfReader

    reader = PdfReader(path)
    if reader.is_encrypted and not reader.decrypt(""):
        raise UnreadableFile("is password-protected")
    title = heading_path([str((reader.metadata and reader.metadata.title) or "")])
    blocks, length, sections = [], 0, []
    for number, page in enumerate(reader.pages, 1):
        text = replace_surrogates(page.extract_text()).rstrip()
        if text:
            blocks.append(text + "\n\n")
            sections.append(Section(length, length + len(blocks[-1]), f"page {number}", title))
            length += len(blocks[-1])
    if not sections:
        raise UnreadableFile("has no text; its pages may be scanned images")
    return Document(source, "".join(blocks), tuple(sections), bytes_read=path.stat().st_size)
