"""The documents in a file, by the reader that its name and content ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from chatlm_rag.sources.document import Document, Problem, Unreadable

MOST_BYTES = 50_000_000
"""The largest file that is read whole; only a corpus, read line by line, may be larger."""

_MARKDOWN = (".md", ".markdown", ".mdown", ".mkd")
_HTML = (".html", ".htm", ".xhtml")


def documents(path: Path, source: str) -> Iterator[Document | Problem]:
    """Each document of a file and each part that had to be left out; any error becomes a problem.

    Args:
        path: an ordinary file; nothing in it is run, and nothing it names is fetched.
        source: what its document is called.
    """
    try:
        yield from _read(path, source)
    except Unreadable as error:
        yield Problem("", str(error))
    except OSError as error:
        yield Problem("", f"cannot be read: {error.strerror}")


def _read(path: Path, source: str) -> Iterator[Document | Problem]:
    from chatlm_rag.sources import corpus, docx, html, markdown, pdf, plain

    suffix = path.suffix.lower()
    if suffix == ".jsonl" and corpus.is_corpus(path):
        yield from corpus.read(path)
        return
    if path.stat().st_size > MOST_BYTES:
        raise Unreadable(f"is larger than {MOST_BYTES // 1_000_000} MB")
    if suffix == ".svg":
        raise Unreadable("is a picture")
    if suffix == ".pdf":
        yield pdf.read(path, source)
    elif suffix == ".docx":
        yield docx.read(path, source)
    elif suffix in _MARKDOWN:
        yield markdown.read(path.read_bytes(), source)
    elif suffix in _HTML:
        yield html.read(path.read_bytes(), source)
    else:
        yield plain.read(path.read_bytes(), source)
