"""The child process that takes a PDF's text out and prints it as JSON; it may be killed."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

MOST_BYTES = 4_000_000_000
"""Of memory."""


def main() -> None:
    """Print the `title` and `pages` of the PDF argv[1], or the `error` that kept from it.

    It takes at most argv[2] seconds of the processor.
    """
    _limit(int(sys.argv[2]))
    logging.disable()
    try:
        found = _read(sys.argv[1])
    except MemoryError:
        found = {"error": "takes too much memory to read"}
    except RecursionError:
        found = {"error": "is nested too deeply"}
    except Exception as error:  # a damaged file shows in whatever its parts lead to
        found = {"error": f"is damaged ({type(error).__name__})"}
    sys.stdout.write(json.dumps(found))


def _read(path: str) -> dict[str, Any]:
    from pypdf import PdfReader

    reader = PdfReader(path)
    if reader.is_encrypted and not reader.decrypt(""):
        return {"error": "is locked by a password"}
    title = reader.metadata.title if reader.metadata else None
    return {"title": str(title or ""), "pages": [page.extract_text() for page in reader.pages]}


def _limit(seconds: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
