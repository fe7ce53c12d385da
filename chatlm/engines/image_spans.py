"""The tokens of images in the prompts of one model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from chatlm.engines.chat_formats import Span, split_control_tokens
from chatlm.engines.image_ids import image_ids
from chatlm.engines.model import ImageReader
from chatlm.types.messages import Message
from chatlm.types.parts import Image


class ImagesNotShown(Exception):
    """A chat template left images out; the message says how many."""


class ImageSpans:
    """What replaces the placeholders of images in rendered prompts.

    Args:
        reader: of the model.
        tokens: matches the text of any token that is a control token where a template writes it.
        token_ids: ids of these tokens by text.
    """

    def __init__(
        self, reader: ImageReader, tokens: re.Pattern[str], token_ids: Mapping[str, int]
    ) -> None:
        self._reader = reader
        self._tokens = tokens
        self._token_ids = token_ids
        self.placeholder_id = reader.feature_id
        """The id of the tokens in whose place the model reads an image."""
        self.of_size = lru_cache(256)(self._of_size)
        """`(width, height) -> spans` of an image of this size in pixels."""

    def written_tokens(self) -> set[str]:
        """Return the tokens of images, which no text may become."""
        spans = [*split_control_tokens(self._reader.placeholder, self._tokens)]
        spans += self.of_size(512, 384)
        return {span.token for span in spans if span.control}

    def insert(self, spans: Iterable[Span], messages: Sequence[Message]) -> list[Span]:
        """Replace the placeholders of images by the tokens of each.

        Args:
            spans: of a rendered prompt.
            messages: of the prompt.

        Raises:
            ImagesNotShown: there are not as many placeholders as images.
        """
        images = [
            (index, part)
            for index, message in enumerate(messages)
            for part in message.parts
            if isinstance(part, Image)
        ]
        out: list[Span] = []
        shown = 0
        for span in spans:
            if not span.control or span.token != self._reader.placeholder:
                out.append(span)
                continue
            if shown < len(images):
                index, image = images[shown]
                out += [
                    replace(each, message_index=index, part=Image.type) for each in self._of(image)
                ]
            shown += 1
        if shown != len(images):
            raise ImagesNotShown(f"it shows {shown} of {len(images)} images")
        return out

    def _of_size(self, width: int, height: int) -> tuple[Span, ...]:
        return tuple(split_control_tokens(self._reader.expand(width, height), self._tokens))

    def _of(self, image: Image) -> list[Span]:
        """Return the spans of an image, numbered by its hash."""
        spans = self.of_size(image.width, image.height)
        places = [
            at
            for at, span in enumerate(spans)
            if self._token_ids.get(span.token) == self.placeholder_id
        ]
        numbers = dict(zip(places, image_ids(image.sha256, len(places)), strict=True))
        return [replace(span, number=numbers.get(at)) for at, span in enumerate(spans)]
