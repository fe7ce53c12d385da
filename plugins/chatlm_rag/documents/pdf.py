"""PDF pages, read in a child process (run with -m)."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

from chatlm_rag.documents.document import (
    Document,
    Section,
    UnreadableFile,
    heading_path,
    replace_surrogates,
)

MAX_CPU_SECONDS = 120
"""Of the processor, for one file."""


def read(path: Path, source: str) -> Document:
    """The file as a document.

    Raises:
        Unreadable: it is no PDF, damaged, locked by a password, takes too long or too much memory,
            or has no text, as scanned pages.
    """
    found = _read_in_child(path)
    if "error" in found:
        raise UnreadableFile(found["error"])
    name = heading_path([found["title"]])
    text, sections = "", []
    for number, page in enumerate(map(replace_surrogates, found["pages"]), 1):
        if page.strip():
            start = len(text)
            text += page.rstrip() + "\n\n"
            sections.append(Section(start, len(text), f"page {number}", name))
    if not sections:
        raise UnreadableFile("has no text; its pages may be pictures")
    return Document(source, text, tuple(sections), bytes_read=path.stat().st_size)


def _read_in_child(path: Path) -> dict[str, Any]:
    module = ["-P", "-m", "chatlm_rag.documents.pdf"]
    command = [sys.executable, *module, str(path.absolute()), str(MAX_CPU_SECONDS)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=5 * MAX_CPU_SECONDS,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    except subprocess.TimeoutExpired as error:
        raise UnreadableFile("takes too long to read") from error
    except subprocess.CalledProcessError as error:
        why = "takes too long or too much memory to read" if error.returncode < 0 else "is damaged"
        raise UnreadableFile(why) from error
    except ValueError as error:
        raise UnreadableFile("is damaged") from error


MAX_MEMORY_BYTES = 4_000_000_000
"""Of memory."""


def main() -> None:
    """Print the `title` and `pages` of the PDF argv[1], or the `error` that kept from it.

    It takes at most argv[2] seconds of the processor.
    """
    _set_limits(int(sys.argv[2]))
    logging.disable()
    try:
        found = _extract_pages(sys.argv[1])
    except MemoryError:
        found = {"error": "takes too much memory to read"}
    except RecursionError:
        found = {"error": "is nested too deeply"}
    except Exception as error:  # a damaged file shows in whatever its parts lead to
        found = {"error": f"is damaged ({type(error).__name__})"}
    sys.stdout.write(json.dumps(found))


def _extract_pages(path: str) -> dict[str, Any]:
    from pypdf import PdfReader

    reader = PdfReader(path)
    if reader.is_encrypted and not reader.decrypt(""):
        return {"error": "is locked by a password"}
    title = reader.metadata.title if reader.metadata else None
    return {"title": str(title or ""), "pages": [page.extract_text() for page in reader.pages]}


def _set_limits(seconds: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
