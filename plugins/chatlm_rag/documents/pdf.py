"""Extract the text of PDF pages, of scanned ones by OCR."""

from __future__ import annotations

from pathlib import Path

from chatlm import can_recognise_text
from chatlm_rag.documents.document import (
    Document,
    Section,
    UnreadableFile,
    heading_path,
    replace_surrogates,
)
from chatlm_rag.documents.scans import MISSING, describe_confidence, read_pages


def read(path: Path, source: str) -> Document:
    """Read a PDF file.

    Raises:
        UnreadableFile: it is password-protected or has no text, and its pages cannot be read by
            OCR either.
        Exception: anything, for a damaged file.
    """
    from pypdf import PdfReader

    reader = PdfReader(path)
    if reader.is_encrypted and not reader.decrypt(""):
        raise UnreadableFile("is password-protected")
    title = heading_path([str((reader.metadata and reader.metadata.title) or "")])
    pages = [replace_surrogates(page.extract_text()).rstrip() for page in reader.pages]
    labels = [f"page {number}" for number in range(1, len(pages) + 1)]
    scanned = [number for number, text in enumerate(pages, 1) if not text]
    if scanned and can_recognise_text():
        for number, found in read_pages(path, scanned):
            pages[number - 1] = replace_surrogates(found.text).rstrip()
            labels[number - 1] += f", {describe_confidence(found)}"
    blocks, length, sections = [], 0, []
    for label, text in zip(labels, pages, strict=True):
        if text:
            blocks.append(text + "\n\n")
            sections.append(Section(length, length + len(blocks[-1]), label, title))
            length += len(blocks[-1])
    if not sections:
        how = "" if can_recognise_text() else f", whose text {MISSING}"
        raise UnreadableFile(f"has no text; its pages may be scanned images{how}")
    return Document(source, "".join(blocks), tuple(sections), bytes_read=path.stat().st_size)
