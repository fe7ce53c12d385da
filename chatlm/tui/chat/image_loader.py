"""Read the images that the transcript shows, in threads."""

from __future__ import annotations

from functools import partial

from chatlm.errors import StoreError
from chatlm.store.store import Store
from chatlm.tui.chat.chat_state import ChatState
from chatlm.tui.chat.image_block import THUMBNAIL_COLUMNS, THUMBNAIL_ROWS, ImageBlock
from chatlm.tui.widgets.picture import decode


class ImageLoader:
    """Gives image blocks their pixels; where the terminal draws no images, they get none.

    Args:
        state: the open chat, in whose store the images are.
    """

    def __init__(self, state: ChatState) -> None:
        self._state = state

    def load(self, block: ImageBlock) -> None:
        """Read the pixels of a block in a thread."""
        if self._state.services.graphics != "text":
            read = partial(self._read, block, self._state.store)
            block.run_worker(read, thread=True, exit_on_error=False, group="image")

    def _read(self, block: ImageBlock, store: Store) -> None:
        try:
            content = store.blob(block.image.sha256)
            pixels = decode(content, THUMBNAIL_COLUMNS, THUMBNAIL_ROWS)
        except StoreError as error:
            block.post_message(ImageBlock.Unreadable(error.message))
        except (OSError, ValueError):
            block.post_message(ImageBlock.Unreadable("The image is damaged."))
        else:
            block.post_message(ImageBlock.PixelsRead(pixels, self._state.services.graphics))
