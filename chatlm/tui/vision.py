"""What the loaded model makes of images: whether it reads them, and their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chatlm.chat.vision import check_images
from chatlm.types.engine import Engine, count_image_tokens
from chatlm.types.parts import Image


class Vision:
    """Asks the model that is loaded, in any thread.

    Args:
        get_engine: returns it; None while none is.
    """

    def __init__(self, get_engine: Callable[[], Engine | None] = lambda: None) -> None:
        self._get_engine = get_engine

    def check(self, images: Sequence[Image]) -> None:
        """Refuse images that the model cannot read.

        Raises:
            UsageError: it cannot; the hint names models that can.
        """
        engine = self._get_engine()
        if engine is not None:
            check_images(images, engine.info)

    def count_tokens(self, image: Image) -> int | None:
        """Return the tokens of an image; None while no model is loaded, or where it is unknown."""
        engine = self._get_engine()
        return None if engine is None else count_image_tokens(engine, image.width, image.height)
