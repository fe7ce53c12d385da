"""The text in images, read by OCR."""

from __future__ import annotations

import importlib.util
import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm.chat.images import read_image_file
from chatlm.errors import UsageError
from chatlm.text import one_line
from chatlm.types.parts import PreparedImage

if TYPE_CHECKING:
    import numpy as np

_lock = threading.Lock()
"""One image at a time: each takes several processors."""


@dataclass(frozen=True)
class RecognisedText:
    """The text of an image, line by line."""

    text: str
    """Empty where there is none."""
    confidence: float
    """Mean confidence of the lines, from 0 to 1; 1 where there is no text."""


def can_recognise_text() -> bool:
    """Return whether the packages for OCR are installed; imports nothing."""
    return all(importlib.util.find_spec(name) for name in ("rapidocr", "onnxruntime"))


def recognise_text(prepared: PreparedImage) -> RecognisedText:
    """Read the text in an image; takes about a second, so call it off the UI thread.

    Raises:
        UsageError: the packages for OCR are not installed.
    """
    if not can_recognise_text():
        raise UsageError(
            "Text in images is not read, since the packages for that are not installed",
            hint='Install them with pip install "chatlm[ocr]".',
        )
    import numpy as np
    import PIL.Image

    with PIL.Image.open(io.BytesIO(prepared.content)) as image:
        pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]  # rapidocr expects BGR, as OpenCV
    with _lock:
        found = _reader()(pixels)
    if not found.txts:
        return RecognisedText("", 1.0)
    lines = _join_lines(found.boxes, found.txts)
    return RecognisedText("\n".join(lines), sum(found.scores) / len(found.scores))


def recognise_file(path: Path, name: str) -> RecognisedText:
    """Read the text in an image file.

    Args:
        path: the file.
        name: for errors.

    Raises:
        UsageError: it cannot be read, or has no text; or as `recognise_text`.
    """
    found = recognise_text(read_image_file(path, name))
    if not found.text:
        raise UsageError(f"{one_line(name, 200)} has no text that could be read")
    return found


@cache
def _reader() -> Any:
    """Return the reader; its models are in its package, and nothing is downloaded."""
    from rapidocr import RapidOCR

    return RapidOCR(params={"Global.log_level": "critical"})


def _join_lines(boxes: Sequence[np.ndarray], texts: Sequence[str]) -> list[str]:
    """Join texts that stand beside each other; boxes have four corners, from the top left on."""
    rows: list[tuple[float, float, list[tuple[float, str]]]] = []
    for box, text in zip(boxes, texts, strict=True):
        top, bottom = float(box[:, 1].min()), float(box[:, 1].max())
        left, middle = float(box[:, 0].min()), (top + bottom) / 2
        row = next((row for row in rows[-3:] if row[0] < middle < row[1]), None)
        if row is None:
            rows.append((top, bottom, [(left, text)]))
        else:
            row[2].append((left, text))
    return [
        "  ".join(text for _, text in sorted(row[2])) for row in sorted(rows, key=lambda r: r[0])
    ]
