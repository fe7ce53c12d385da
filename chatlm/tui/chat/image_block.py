"""An image of a message or a reply in the transcript: a line about it, and a thumbnail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.style import Style
from textual.widgets import Static

from chatlm.text import escape_controls
from chatlm.tui.formatting import describe_part
from chatlm.tui.graphics import Graphics
from chatlm.tui.widgets.picture import fit_cells, picture_widget
from chatlm.types.parts import Image

if TYPE_CHECKING:
    import PIL.Image

THUMBNAIL_COLUMNS, THUMBNAIL_ROWS = 36, 10
"""Maximum cells of a thumbnail."""


class ImageBlock(Vertical):
    """An image; it asks for its pixels when it is mounted, and shows a line of text until then.

    Args:
        image: the part.
        by_user: whether it belongs to the user's message.
    """

    @dataclass
    class PixelsWanted(Message):
        """Asks for the pixels; answered by one of the other messages, or not at all."""

        block: ImageBlock

    @dataclass
    class PixelsRead(Message, bubble=False):
        """The pixels, and how to draw them."""

        pixels: PIL.Image.Image
        graphics: Graphics

    @dataclass
    class Unreadable(Message, bubble=False):
        """Why there are no pixels."""

        problem: str

    DEFAULT_CSS = """
    ImageBlock {
        height: auto;
        padding: 0 1;
        border-left: outer $primary 50%;

        &.-user {
            max-width: 100;
            border-left: outer $primary;
            background: $primary 10%;
        }
        & > Static { height: auto; }
    }
    """

    def __init__(self, image: Image, *, by_user: bool = False) -> None:
        super().__init__(classes="-user" if by_user else "")
        self.image = image
        self._waiting: ImageBlock.PixelsRead | None = None
        """Pixels that came before it was known how wide they may be."""

    def compose(self) -> ComposeResult:
        """Yield the line about the image."""
        yield Static(self._caption())

    def on_mount(self) -> None:
        """Ask for the pixels."""
        self.post_message(self.PixelsWanted(self))

    async def on_image_block_pixels_read(self, message: PixelsRead) -> None:
        """Draw the thumbnail below the line, as soon as the block has a size."""
        if not self.size.width:
            self._waiting = message
            return
        space = (min(THUMBNAIL_COLUMNS, max(self.size.width - 3, 1)), THUMBNAIL_ROWS)
        columns, rows = fit_cells(self.image.width, self.image.height, *space)
        await self.mount(picture_widget(message.pixels, message.graphics, columns, rows))

    async def on_resize(self) -> None:
        """Draw the thumbnail if it waits for the size."""
        if self._waiting is not None and self.size.width:
            message, self._waiting = self._waiting, None
            await self.on_image_block_pixels_read(message)

    def on_image_block_unreadable(self, message: Unreadable) -> None:
        """Say why the image cannot be shown."""
        problem = Content.styled(escape_controls(message.problem), "$text-error")
        self.query_one(Static).update(Content("\n").join([self._caption(), problem]))

    def _caption(self) -> Content:
        shown = describe_part(self.image)
        link = Style.from_meta({"@click": f"screen.command('images', '{self.image.sha256}')"})
        return Content.assemble(
            (shown.label, "bold"), f"  {shown.title}  ", Content.styled("▸ show", link)
        )
