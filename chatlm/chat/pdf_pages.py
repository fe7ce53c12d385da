"""Pages of PDF files as images."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path

from chatlm.chat.images import prepare_pixels
from chatlm.config.paths import check_regular_file
from chatlm.errors import UsageError
from chatlm.text import one_line
from chatlm.types.parts import MAX_IMAGES, PreparedImage

DOTS_PER_INCH = 150
"""Resolution of a page: ten-point text stays readable."""

MAX_SIDE = 2200
"""Maximum pixels of a page's longer side; larger pages are rendered with fewer dots per inch."""

_lock = threading.Lock()
"""PDFium must not run in two threads at once."""


def render_pages(path: Path, name: str, pages: str) -> list[PreparedImage]:
    """Render pages of a PDF file.

    Args:
        path: the file.
        name: how the user named it.
        pages: such as `1-3,7`.

    Raises:
        UsageError: it is no PDF file, needs a password or is damaged; a page is not in it; or there
            are more than `MAX_IMAGES`.
    """
    import pypdfium2

    hint = f"Name pages that it has, such as {name}#pages=1."
    try:
        check_regular_file(path)
        with _lock, pypdfium2.PdfDocument(path) as document:
            count = len(document)
            try:
                numbers = parse_ranges(pages, count)
            except ValueError as error:
                raise UsageError(f"{name}: no pages {pages or '…'}: {error}", hint) from error
            if len(numbers) > MAX_IMAGES:
                raise UsageError(
                    f"{name}: {len(numbers):,} pages are too many for one message",
                    hint=f"Name at most {MAX_IMAGES}.",
                )
            return [_render(document, number, path.name) for number in numbers]
    except pypdfium2.PdfiumError as error:
        locked = "password" in str(error).lower()
        what = "needs a password" if locked else "is not a PDF file, or damaged"
        raise UsageError(f"{name} {what}", hint="Check the file.") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{name} cannot be read: {one_line(why, 100)}") from error


def _render(document: object, number: int, name: str) -> PreparedImage:
    page = document[number - 1]  # type: ignore[index]  # pypdfium2 has no types
    scale = min(DOTS_PER_INCH / 72, MAX_SIDE / max(*page.get_size(), 1.0))
    pixels = page.render(scale=scale).to_pil()
    return prepare_pixels(pixels, f"{name}, page {number}")


def parse_ranges(text: str, count: int) -> Sequence[int]:
    """Return the numbers that a text such as `1-3,7` means, in its order, each once.

    Args:
        text: numbers and ranges; the end of a range may be open, as in `2-`.
        count: the largest number.

    Raises:
        ValueError: the text is none of that, or a number is not between 1 and `count`.
    """
    found: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(-)?(\d{1,6})?", part)
        if match is None or (match[3] and not match[2]):
            raise ValueError("numbers and ranges such as 1-3,7 are expected")
        first = int(match[1])
        last = int(match[3]) if match[3] else count if match[2] else first
        if not 1 <= first <= last <= count:
            raise ValueError(f"there are {count:,} pages" if count != 1 else "there is 1 page")
        found.update(dict.fromkeys(range(first, last + 1)))
    return list(found)
