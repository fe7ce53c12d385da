"""Read the text of images and of scanned PDF pages by OCR."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from chatlm import (
    RecognisedText,
    UsageError,
    can_recognise_text,
    read_image,
    recognise_text,
    render_pages,
)
from chatlm_rag.documents.document import Document, Section, UnreadableFile, replace_surrogates

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".heic", ".heif")

MAX_PAGES = 30
"""Scanned pages of one file; each takes seconds, and a file may take two minutes."""

MISSING = "is read with pip install 'chatlm[ocr]'"
"""How to get OCR."""


def read_scan(path: Path, source: str) -> Document:
    """Read the text in an image.

    Raises:
        UnreadableFile: it has no text, cannot be read, or the packages for OCR are missing.
    """
    if not can_recognise_text():
        raise UnreadableFile(f"is an image, whose text {MISSING}")
    try:
        found = recognise_text(read_image(path.read_bytes(), path.name))
    except UsageError as error:
        raise UnreadableFile(f"cannot be read: {error.message}") from error
    text = replace_surrogates(found.text)
    if not text.strip():
        raise UnreadableFile("is an image without text")
    sections = (Section(0, len(text), describe_confidence(found)),)
    return Document(source, text, sections, bytes_read=path.stat().st_size)


def read_pages(path: Path, numbers: Sequence[int]) -> Iterator[tuple[int, RecognisedText]]:
    """Yield the text of pages of a PDF file that have none of their own.

    Args:
        path: the file.
        numbers: of the pages, from 1.

    Raises:
        UnreadableFile: there are more than `MAX_PAGES`, or one cannot be drawn.
    """
    if len(numbers) > MAX_PAGES:
        raise UnreadableFile(
            f"has {len(numbers):,} scanned pages, and at most {MAX_PAGES} are read; split it"
        )
    try:
        for number in numbers:
            (page,) = render_pages(path, path.name, str(number))
            yield number, recognise_text(page)
    except UsageError as error:
        raise UnreadableFile(f"cannot be read: {error.message}") from error


def describe_confidence(found: RecognisedText) -> str:
    """Return how a text was read and how sure that is, such as `OCR 97%`."""
    return f"OCR {found.confidence:.0%}"
