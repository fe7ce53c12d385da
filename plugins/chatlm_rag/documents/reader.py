"""Choose the reader; BEIR corpora."""

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
"""The largest file that is read whole; only a corpus, read line by line, may be larger."""


_MARKDOWN_SUFFIXES = (".md", ".markdown", ".mdown", ".mkd")


_HTML_SUFFIXES = (".html", ".htm", ".xhtml")


def read_documents(path: Path, source: str) -> Iterator[Document | Problem]:
    """Each document of a file and each part that had to be left out; any error becomes a problem.

    Args:
        path: an ordinary file; nothing in it is run, and nothing it names is fetched.
        source: what its document is called.
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
        raise UnreadableFile("is a picture")
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
"""The longest line that is read, in bytes."""


def is_corpus(path: Path) -> bool:
    """Whether the first line of a `.jsonl` file is a document of a corpus.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _parse_corpus_line(file.readline(MAX_LINE_BYTES)) is not None


def read_corpus(path: Path) -> Iterator[Document | Problem]:
    """Each document, and each line that is none.

    Raises:
        OSError: it cannot be read.
    """
    done = number = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            done += len(line)
            if not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
                yield Problem(f"line {number}", f"is longer than {MAX_LINE_BYTES // 1_000_000} MB")
                while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    done += len(rest)
                done += len(rest)
                continue
            if line.strip():
                yield _corpus_document(line, number, done)


def _corpus_document(line: bytes, number: int, bytes_read: int) -> Document | Problem:
    table = _parse_corpus_line(line)
    if table is None:
        return Problem(f"line {number}", 'is not {"_id": …, "title": …, "text": …}')
    title = heading_path([replace_surrogates(str(table.get("title") or ""))])
    text = replace_surrogates(table["text"]) or title
    if not text.strip():
        return Problem(f"line {number}", "is empty")
    sections = (Section(0, len(text), title, title),)
    return Document(
        replace_surrogates(str(table["_id"])),
        text,
        sections,
        start_line=number,
        bytes_read=bytes_read,
    )


def _parse_corpus_line(line: bytes) -> dict[str, Any] | None:
    try:
        table = json.loads(line)
    except (ValueError, RecursionError):
        return None
    right = isinstance(table, dict) and table.get("_id") not in (None, "")
    return table if right and isinstance(table.get("text"), str) else None
