"""Extract the text of PDF pages in a child process with limits on CPU time and memory.

The child process runs this module with `python -m`.
"""

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
"""CPU time for one file."""


def read(path: Path, source: str) -> Document:
    """Read a PDF file.

    Raises:
        UnreadableFile: it is not a PDF, damaged, password-protected, takes too long or too much
            memory, or has no text, like scanned pages.
    """
    extracted = _read_in_child(path)
    if "error" in extracted:
        raise UnreadableFile(extracted["error"])
    title = heading_path([extracted["title"]])
    text, sections = "", []
    for number, page in enumerate(map(replace_surrogates, extracted["pages"]), 1):
        if page.strip():
            start = len(text)
            text += page.rstrip() + "\n\n"
            sections.append(Section(start, len(text), f"page {number}", title))
    if not sections:
        raise UnreadableFile("has no text; its pages may be scanned images")
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
        extracted: dict[str, Any] = json.loads(done.stdout)
        return extracted
    except subprocess.TimeoutExpired as error:
        raise UnreadableFile("takes too long to read") from error
    except subprocess.CalledProcessError as error:
        killed = error.returncode < 0
        reason = "takes too long or too much memory to read" if killed else "is damaged"
        raise UnreadableFile(reason) from error
    except ValueError as error:
        raise UnreadableFile("is damaged") from error


MAX_MEMORY_BYTES = 4_000_000_000
"""Address space of the child process."""


def main() -> None:
    """Print a JSON object with the `title` and `pages` of a PDF, or an `error`.

    `argv[1]` is the file, `argv[2]` the limit on CPU time in seconds.
    """
    _set_limits(int(sys.argv[2]))
    logging.disable()
    try:
        extracted = _extract_pages(sys.argv[1])
    except MemoryError:
        extracted = {"error": "takes too much memory to read"}
    except RecursionError:
        extracted = {"error": "is nested too deeply"}
    except Exception as error:  # a damaged file can make pypdf raise anything
        extracted = {"error": f"is damaged ({type(error).__name__})"}
    sys.stdout.write(json.dumps(extracted))


def _extract_pages(path: str) -> dict[str, Any]:
    from pypdf import PdfReader

    reader = PdfReader(path)
    if reader.is_encrypted and not reader.decrypt(""):
        return {"error": "is password-protected"}
    title = reader.metadata.title if reader.metadata else None
    return {"title": str(title or ""), "pages": [page.extract_text() for page in reader.pages]}


def _set_limits(seconds: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
