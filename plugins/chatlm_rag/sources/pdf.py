"""PDF: a section for each page; read in a process of its own, with limits on time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from chatlm_rag.sources.document import Document, Section, Unreadable, clean, heading_path

MOST_SECONDS = 120
"""Of the processor, for one file."""


def read(path: Path, source: str) -> Document:
    """The file as a document.

    Raises:
        Unreadable: it is no PDF, damaged, locked by a password, takes too long or too much memory,
            or has no text, as scanned pages.
    """
    found = _in_child(path)
    if "error" in found:
        raise Unreadable(found["error"])
    name = heading_path([found["title"]])
    text, sections = "", []
    for number, page in enumerate(map(clean, found["pages"]), 1):
        if page.strip():
            start = len(text)
            text += page.rstrip() + "\n\n"
            sections.append(Section(start, len(text), f"page {number}", name))
    if not sections:
        raise Unreadable("has no text; its pages may be pictures")
    return Document(source, text, tuple(sections), read=path.stat().st_size)


def _in_child(path: Path) -> dict[str, Any]:
    module = ["-P", "-m", "chatlm_rag.sources.pdf_child"]
    command = [sys.executable, *module, str(path.absolute()), str(MOST_SECONDS)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=5 * MOST_SECONDS,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    except subprocess.TimeoutExpired as error:
        raise Unreadable("takes too long to read") from error
    except subprocess.CalledProcessError as error:
        why = "takes too long or too much memory to read" if error.returncode < 0 else "is damaged"
        raise Unreadable(why) from error
    except ValueError as error:
        raise Unreadable("is damaged") from error
