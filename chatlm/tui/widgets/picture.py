"""An image drawn in cells of the terminal, by textual-image."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from textual.widget import Widget

from chatlm.tui.graphics import Graphics, cell_pixels, load_library

if TYPE_CHECKING:
    import PIL.Image


def decode(content: bytes, columns: int, rows: int) -> PIL.Image.Image:
    """Decode an image file, scaled down to what so many cells can show; call it in a thread.

    Raises:
        OSError, ValueError: it is damaged.
    """
    import PIL.Image

    load_library()
    width, height = cell_pixels()
    with PIL.Image.open(io.BytesIO(content)) as image:
        image.draft("RGB", (2 * columns * width, 2 * rows * height))
        image.load()
        pixels = image.convert("RGB")
    pixels.thumbnail((max(columns * width, 1), max(rows * height, 1)))
    return pixels


def fit_cells(width: int, height: int, columns: int, rows: int) -> tuple[int, int]:
    """Return the cells that an image takes in a space of cells; small ones are not enlarged.

    Args:
        width: in pixels.
        height: in pixels.
        columns: of the space.
        rows: of the space.
    """
    cell_width, cell_height = cell_pixels()
    scale = min(columns * cell_width / width, rows * cell_height / height, 1.0)
    return (
        max(1, min(round(width * scale / cell_width), columns)),
        max(1, min(round(height * scale / cell_height), rows)),
    )


def picture_widget(pixels: PIL.Image.Image, graphics: Graphics, columns: int, rows: int) -> Widget:
    """Return a widget of so many cells that draws an image, which `decode` returned."""
    from textual_image.widget import HalfcellImage, SixelImage, TGPImage

    kinds = {"kitty": TGPImage, "sixel": SixelImage, "blocks": HalfcellImage}
    widget: Widget = kinds[graphics](pixels, classes="picture")
    widget.styles.width = columns
    widget.styles.height = rows
    return widget
