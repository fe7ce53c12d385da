"""Read a file with the reader for its type; BEIR corpora are read line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatlm import check_regular_file
from chatlm_rag.documents.document import (
    Document,
    Problem,
    Section,
    UnreadableFile,
    heading_path,
    replace_surrogates,
)

MAX_FILE_BYTES = 50_000_000
"""Limit for files that are read whole; a corpus, which is read line by line, may be larger."""


_MARKDOWN_SUFFIXES = (".md", ".markdown", ".mdown", ".mkd")


_HTML_SUFFIXES = (".html", ".htm", ".xhtml")


def read_whole(path: Path, source: str) -> Document:
    """Read a file that is no corpus.

    Args:
        path: a file.
        source: the name of its document.

    Raises:
        UnreadableFile: its text cannot be extracted.
        OSError: it cannot be read.
        Exception: anything, for a damaged file.
    """
    from chatlm_rag.documents import (
        code,
        docx,
        epub,
        html,
        mail,
        office,
        pdf,
        scans,
        tables,
        text_files,
    )

    check_regular_file(path)
    suffix = path.suffix.lower()
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UnreadableFile(f"is larger than {MAX_FILE_BYTES // 1_000_000} MB")
    if suffix == ".svg":
        raise UnreadableFile("is an image")
    if suffix in scans.IMAGE_SUFFIXES:
        return scans.read_scan(path, source)
    if suffix == ".pdf":
        return pdf.read(path, source)
    if suffix == ".docx":
        return docx.read(path, source)
    if suffix == ".xlsx":
        return office.read_workbook(path, source)
    if suffix == ".pptx":
        return office.read_presentation(path, source)
    if suffix == ".epub":
        return epub.read(path, source)
    if suffix == ".eml":
        return mail.read(path, source)
    if suffix in (".csv", ".tsv"):
        return tables.read_csv(path.read_bytes(), source)
    if suffix in code.LANGUAGES:
        return code.read(path.read_bytes(), source, suffix)
    if suffix in _MARKDOWN_SUFFIXES:
        return text_files.read_markdown(path.read_bytes(), source)
    if suffix in _HTML_SUFFIXES:
        return html.read(path.read_bytes(), source)
    return text_files.read_plain(path.read_bytes(), source)


MAX_LINE_BYTES = 10_000_000
"""Limit for a line of a corpus."""


def is_corpus(path: Path) -> bool:
    """Return whether a file is a BEIR corpus, judging by its suffix and its first line.

    Raises:
        OSError: it cannot be read.
    """
    if path.suffix.lower() != ".jsonl":
        return False
    check_regular_file(path)
    with path.open("rb") as file:
        return _parse_corpus_line(file.readline(MAX_LINE_BYTES)) is not None


def read_corpus(path: Path) -> Iterator[Document | Problem]:
    """Yield the documents of a corpus, and a `Problem` for each invalid line.

    Raises:
        OSError: it cannot be read.
    """
    bytes_read = number = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            bytes_read += len(line)
            if not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
                yield Problem(f"line {number}", f"is longer than {MAX_LINE_BYTES // 1_000_000} MB")
                while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    bytes_read += len(rest)
                bytes_read += len(rest)
                continue
            if line.strip():
                yield _corpus_document(line, number, bytes_read)


def _corpus_document(line: bytes, number: int, bytes_read: int) -> Document | Problem:
    fields = _parse_corpus_line(line)
    if fields is None:
        return Problem(f"line {number}", 'is not {"_id": …, "title": …, "text": …}')
    title = heading_path([replace_surrogates(str(fields.get("title") or ""))])
    text = replace_surrogates(fields["text"]) or title
    if not text.strip():
        return Problem(f"line {number}", "is empty")
    sections = (Section(0, len(text), title, title),)
    return Document(
        replace_surrogates(str(fields["_id"])),
        text,
        sections,
        start_line=number,
        bytes_read=bytes_read,
    )


def _parse_corpus_line(line: bytes) -> dict[str, Any] | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    has_id = isinstance(fields, dict) and fields.get("_id") not in (None, "")
    return fields if has_id and isinstance(fields.get("text"), str) else None
