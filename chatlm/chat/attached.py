"""What a message's attachments add to it: texts, and images, such as pages of a PDF file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from chatlm.chat.attachments import MAX_NAME_WIDTH, FileReader, format_block, read_blocks
from chatlm.chat.images import is_image_file, read_image_file
from chatlm.errors import UsageError
from chatlm.text import one_line
from chatlm.types.parts import MAX_IMAGES, PreparedImage

_FRAGMENT = re.compile(r"(?P<path>.+)#(?P<fragment>pages=[\d,-]*[\d-]|text)", re.DOTALL)

PAGES = "pages="
"""Begin of a fragment that makes images of a PDF file's pages, such as `pages=1-3`."""

RECOGNISED_TEXT = "text"
"""The fragment that takes the text in an image, read by OCR."""


@dataclass(frozen=True)
class Attached:
    """What attachments add to a message."""

    blocks: tuple[str, ...] = ()
    """Texts, each with the name of its file."""
    images: tuple[PreparedImage, ...] = ()

    def __add__(self, other: Attached) -> Attached:
        """Return both.

        Raises:
            UsageError: there are more than `MAX_IMAGES` images.
        """
        images = {each.image.sha256: each for each in (*self.images, *other.images)}
        if len(images) > MAX_IMAGES:
            raise UsageError(
                f"These are more than {MAX_IMAGES} images",
                hint="Send some of them in another message.",
            )
        return Attached((*self.blocks, *other.blocks), tuple(images.values()))


def join_attached(parts: Iterable[Attached]) -> Attached:
    """Return all of several attachments, see `Attached.__add__`."""
    return sum(parts, start=Attached())


def split_fragment(raw_path: str) -> tuple[str, str]:
    """Split a path from a fragment behind it, `#pages=1-3` or `#text`; it may be empty."""
    match = _FRAGMENT.fullmatch(raw_path)
    return (match["path"], match["fragment"]) if match else (raw_path, "")


def read_attached(
    path: Path,
    name: str,
    fragment: str,
    read_file: FileReader,
    folder_fits: Callable[[str], bool] = lambda text: True,
) -> Attached:
    """Read a file or folder that is attached.

    Args:
        path: the file or folder.
        name: how the user named it, without the fragment.
        fragment: as `split_fragment` returns it.
        read_file: reads the text of other files than images.
        folder_fits: whether a message can take the text of a folder.

    Raises:
        FolderTooLarge: it is a folder with too much text for a message.
        UsageError: it cannot be read.
    """
    shown = one_line(name, MAX_NAME_WIDTH)
    if fragment.startswith(PAGES):
        from chatlm.chat.pdf_pages import render_pages

        return Attached(images=tuple(render_pages(path, shown, fragment.removeprefix(PAGES))))
    if fragment == RECOGNISED_TEXT:
        from chatlm.chat.ocr import recognise_file

        found = recognise_file(path, shown)
        title = f"{name}, text read by OCR, confidence {found.confidence:.0%}"
        return Attached((format_block(title, found.text),))
    if path.is_file() and is_image_file(path):
        return Attached(images=(read_image_file(path, path.name),))
    return Attached(tuple(read_blocks(path, name, read_file, folder_fits)))
