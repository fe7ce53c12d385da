"""Read the documents of a file with the reader for its type; BEIR corpora are read line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def read_documents(path: Path, source: str) -> Iterator[Document | Problem]:
    """Yield the documents of a file, and a `Problem` for each part that cannot be read.

    Nothing in the file is executed, and nothing it links to is fetched.

    Args:
        path: a regular file.
        source: the name of its document.
    """
    try:
        yield from _read_by_suffix(path, source)
    except UnreadableFile as error:
        yield Problem("", str(error))
    except OSError as error:
        yield Problem("", f"cannot be read: {error.strerror}")


def _read_by_suffix(path: Path, source: str) -> Iterator[Document | Problem]:
    from chatlm_rag.documents import docx, html, pdf, text_files

    suffix = path.suffix.lower()
    if suffix == ".jsonl" and is_corpus(path):
        yield from read_corpus(path)
        return
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UnreadableFile(f"is larger than {MAX_FILE_BYTES // 1_000_000} MB")
    if suffix == ".svg":
        raise UnreadableFile("is an image")
    if suffix == ".pdf":
        yield pdf.read(path, source)
    elif suffix == ".docx":
        yield docx.read(path, source)
    elif suffix in _MARKDOWN_SUFFIXES:
        yield text_files.read_markdown(path.read_bytes(), source)
    elif suffix in _HTML_SUFFIXES:
        yield html.read(path.read_bytes(), source)
    else:
        yield text_files.read_plain(path.read_bytes(), source)


MAX_LINE_BYTES = 10_000_000
"""Limit for a line of a corpus."""


def is_corpus(path: Path) -> bool:
    """Return whether a `.jsonl` file is a BEIR corpus, judging by its first line.

    Raises:
        OSError: it cannot be read.
    """
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
