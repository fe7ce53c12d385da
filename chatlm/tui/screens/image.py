"""The card that shows the images of a turn, one at a time, as large as the terminal allows."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import click
from textual import work
from textual.binding import Binding, BindingType
from textual.containers import Center, Middle
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from chatlm.chat.opened_images import OpenedImages
from chatlm.errors import UsageError
from chatlm.tui.formatting import describe_part
from chatlm.tui.graphics import Graphics
from chatlm.tui.screens.card import Card
from chatlm.tui.widgets.picture import decode, fit_cells, picture_widget
from chatlm.types.parts import Image

if TYPE_CHECKING:
    import PIL.Image


@dataclass(frozen=True)
class _Picture:
    """Pixels, and the cells that they take."""

    pixels: PIL.Image.Image
    columns: int
    rows: int


class ImageScreen(Card[None]):
    """Shows images large; another program can open them.

    Args:
        images: what there is to see.
        first: index of the one to show first.
        read: returns the bytes of an image by its hash; called in a thread.
        graphics: how the terminal draws images.
        opened: writes copies for other programs; None if images must not be written to disk.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,v,q", "dismiss", "close"),
        Binding("left", "step(-1)", "previous"),
        Binding("right", "step(1)", "next"),
        Binding("o", "open_outside", "open in another program"),
    ]

    DEFAULT_CSS = """
    ImageScreen > .card {
        width: 100%;
        height: 100%;
        & > #picture { height: 1fr; width: 1fr; }
        & > #picture > Center { height: auto; width: 1fr; }
        & > #picture > Center > #placeholder { width: auto; }
    }
    """

    CARD_TITLE = "Image"

    def __init__(
        self,
        images: Sequence[Image],
        first: int,
        read: Callable[[str], bytes],
        graphics: Graphics,
        opened: OpenedImages | None,
    ) -> None:
        super().__init__()
        self._images = images
        self._index = first
        self._read = read
        self._graphics = graphics
        self._opened = opened

    @property
    def image(self) -> Image:
        """The image that is shown."""
        return self._images[self._index]

    def body(self) -> Iterable[Widget]:
        """Yield the line about the image, and its place."""
        yield Static(id="facts")
        yield Middle(Center(Static(id="placeholder")), id="picture")

    def on_mount(self) -> None:
        """Show the first image, once the size of the card is known."""
        self.call_after_refresh(self._show)

    def on_resize(self) -> None:
        """Fit the image again."""
        self.call_after_refresh(self._show)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Allow steps only where there are several images."""
        return action != "step" or len(self._images) > 1

    def action_step(self, step: int) -> None:
        """Show the next or the previous image."""
        self._index = (self._index + step) % len(self._images)
        self._show()

    def _show(self) -> None:
        shown = describe_part(self.image)
        place = f"{self._index + 1} of {len(self._images)} · " * (len(self._images) > 1)
        self.query_one("#facts", Static).update(Content(f"{place}{shown.title}"))
        self.query_one("#placeholder", Static).update(
            "The terminal draws no images here; o opens it in another program."
            if self._graphics == "text"
            else ""
        )
        if self._graphics != "text":
            space = self.query_one("#picture").size
            self.start_work(partial(self._read_pixels, self.image, space.width, space.height))

    def _read_pixels(
        self, image: Image, columns: int, rows: int
    ) -> Generator[_Picture, None, None]:
        cells = fit_cells(image.width, image.height, max(columns, 1), max(rows, 1))
        try:
            yield _Picture(decode(self._read(image.sha256), *cells), *cells)
        except (OSError, ValueError) as error:
            raise UsageError("The image is damaged and cannot be drawn") from error

    def handle_value(self, value: object) -> None:
        """Draw the image."""
        if isinstance(value, _Picture):
            cells = (value.columns, value.rows)
            self._draw(picture_widget(value.pixels, self._graphics, *cells))

    @work(exclusive=True, exit_on_error=False)
    async def _draw(self, widget: Widget) -> None:
        center = self.query_one("#picture > Center")
        async with self.batch():
            await center.remove_children(".picture")
            await center.mount(widget)

    def action_open_outside(self) -> None:
        """Open the image in the program that the system has for it."""
        if self._opened is None:
            self.show_error(
                UsageError(
                    "Images of an incognito chat are not written to disk, so no other program can "
                    "open them"
                )
            )
            return
        self.start_work(partial(self._open, self.image, self._opened))

    def _open(self, image: Image, opened: OpenedImages) -> Generator[object, None, None]:
        path = opened.add(image, self._read(image.sha256))
        try:
            failed = click.launch(str(path))
        except (OSError, subprocess.SubprocessError):
            failed = 1
        if failed:
            raise UsageError(
                "No program opened the image",
                hint=f"While chatlm runs it is in {path}; open it from there.",
            )
        yield from ()
