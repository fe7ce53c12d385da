"""A corpus in BEIR's form, `{"_id": …, "title": …, "text": …}` on each line: each a document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatlm_rag.sources.document import Document, Problem, Section, clean, heading_path

MOST_LINE = 10_000_000
"""The longest line that is read, in bytes."""


def is_corpus(path: Path) -> bool:
    """Whether the first line of a `.jsonl` file is a document of a corpus.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _table(file.readline(MOST_LINE)) is not None


def read(path: Path) -> Iterator[Document | Problem]:
    """Each document, and each line that is none.

    Raises:
        OSError: it cannot be read.
    """
    done = number = 0
    with path.open("rb") as file:
        while line := file.readline(MOST_LINE):
            number += 1
            done += len(line)
            if not line.endswith(b"\n") and len(line) == MOST_LINE:
                yield Problem(f"line {number}", f"is longer than {MOST_LINE // 1_000_000} MB")
                while (rest := file.readline(MOST_LINE)) and not rest.endswith(b"\n"):
                    done += len(rest)
                done += len(rest)
                continue
            if line.strip():
                yield _document(line, number, done)


def _document(line: bytes, number: int, done: int) -> Document | Problem:
    table = _table(line)
    if table is None:
        return Problem(f"line {number}", 'is not {"_id": …, "title": …, "text": …}')
    title = heading_path([clean(str(table.get("title") or ""))])
    text = clean(table["text"]) or title
    if not text.strip():
        return Problem(f"line {number}", "is empty")
    sections = (Section(0, len(text), title, title),)
    return Document(clean(str(table["_id"])), text, sections, line=number, read=done)


def _table(line: bytes) -> dict[str, Any] | None:
    try:
        table = json.loads(line)
    except (ValueError, RecursionError):
        return None
    right = isinstance(table, dict) and table.get("_id") not in (None, "")
    return table if right and isinstance(table.get("text"), str) else None
