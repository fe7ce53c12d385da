"""Token ids that tell images apart, for everything that compares prompts.

All images have the same placeholder token, so the ids of a prompt do not say which image is meant.
In the ids of a prompt each placeholder is therefore replaced by a number above all token ids that
has 30 bits of the image's hash. Prompt cache, saved caches and the hash of a prompt then compare
images without knowing of them. `plain_ids` gives the ids that a model reads.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_IMAGE = 1 << 31
"""Bit of every such number; token ids are below."""

_FIRST = 1 << 30
"""Bit of the first placeholder of each image."""

_HASH = _FIRST - 1


@dataclass(frozen=True)
class ImageUnit:
    """The tokens of one image in a prompt, from its first placeholder to its last."""

    start: int
    stop: int
    """Index after the last."""
    first_id: int


def image_ids(sha256: str, count: int) -> list[int]:
    """Return the numbers for the placeholders of an image.

    Args:
        sha256: of the image's bytes, in hex.
        count: of placeholders.
    """
    bits = hashlib.shake_256(bytes.fromhex(sha256)).digest(4 * count)
    numbers = [_IMAGE | number & _HASH for number in struct.unpack(f"<{count}I", bits)]
    return [numbers[0] | _FIRST, *numbers[1:]] if numbers else []


def is_image_id(number: int) -> bool:
    """Whether a number stands for a placeholder."""
    return number >= _IMAGE


def plain_ids(ids: Iterable[int], placeholder: int) -> list[int]:
    """Return the ids that a model reads; `placeholder` is the id of the token."""
    return [placeholder if number >= _IMAGE else number for number in ids]


def find_images(ids: Sequence[int]) -> list[ImageUnit]:
    """Return the images in the ids of a prompt, in order."""
    if not ids or max(ids) < _IMAGE:
        return []
    units: list[ImageUnit] = []
    for index, number in enumerate(ids):
        if number < _IMAGE:
            continue
        if number & _FIRST or not units:
            units.append(ImageUnit(index, index + 1, number))
        else:
            units[-1] = ImageUnit(units[-1].start, index + 1, units[-1].first_id)
    return units
