"""Text and code: one section, the file's lines as they are."""

from __future__ import annotations

from chatlm_rag.sources.decoding import decode
from chatlm_rag.sources.document import Document, Section


def read(data: bytes, source: str) -> Document:
    """The file as a document.

    Raises:
        Unreadable: it is empty or no text.
    """
    text = decode(data)
    return Document(source, text, (Section(0, len(text)),), line=1, in_lines=True, read=len(data))
