"""Images in clients' messages: from data URLs and base64, never from an address."""

from __future__ import annotations

import base64
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from chatlm import (
    EngineInfo,
    Image,
    Part,
    PreparedImage,
    Text,
    UsageError,
    list_installed_models,
    one_line,
    read_image,
)
from chatlm_serve.errors import ApiError, field_error

MAX_IMAGES = 20
"""Limit of the images of one request."""

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+(;[a-z0-9=.-]+)*;base64,", re.IGNORECASE)

_BASE64 = (string.ascii_letters + string.digits + "+/=").encode()

_ENCODED = re.compile(
    rb'(?:;base64,|"data"\s*:\s*"|"images"\s*:\s*\[\s*"|",\s*")[A-Za-z0-9+/]{256,}+={0,2}+(?=")'
)


@dataclass(frozen=True)
class ClientImage(Image):
    """An image of a client's message, with its bytes."""

    content: bytes = field(default=b"", compare=False, repr=False)

    def prepared(self, offset: int = 0) -> PreparedImage:
        """Return it as chats take it; `offset` is its place in a text."""
        plain = Image(self.media_type, self.width, self.height, self.sha256, self.name)
        return replace(PreparedImage(plain, self.content), offset=offset)


def count_other_bytes(body: bytes | bytearray, enough: int) -> int:
    """Count the bytes of a JSON text without those of its images, before it is parsed.

    Args:
        body: the text.
        enough: where it has more that cannot be of images, that is the count, since images are
            searched slowly in such a text and nothing else runs meanwhile.
    """
    others = len(body.translate(None, _BASE64))
    if others > enough:
        return others
    return len(body) - sum(len(match[0]) for match in _ENCODED.finditer(body))


def image_from_url(url: str, path: str) -> ClientImage:
    """Read an image from a data URL.

    Args:
        url: what the client sent.
        path: its name in an error.

    Raises:
        ApiError: it is an address, which would let clients reach what only this machine can, or
            no image.
    """
    match = _DATA_URL.match(url)
    if match is None:
        raise field_error(
            path,
            "must be a data URL with the image itself, such as data:image/png;base64,…; this "
            "server fetches no addresses.",
            "unsupported_value",
        )
    return image_from_base64(url[match.end() :], path)


def image_from_base64(text: str, path: str) -> ClientImage:
    """Read an image from base64; raises as `image_from_url`."""
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise field_error(path, "is not base64.") from error
    try:
        read = read_image(content, "")
    except UsageError as error:
        raise field_error(path, f"{error.message}.") from error
    image = read.image
    return ClientImage(
        image.media_type, image.width, image.height, image.sha256, image.name, read.content
    )


def split_images(parts: Iterable[Part]) -> tuple[str, tuple[PreparedImage, ...]]:
    """Return the text of a message, and its images with their places in it."""
    text, images = "", []
    for part in parts:
        if isinstance(part, Text):
            text += part.text
        elif isinstance(part, ClientImage):
            images.append(part.prepared(len(text)))
    return text, tuple(images)


def check_images(images: Sequence[PreparedImage], info: EngineInfo) -> None:
    """Refuse images that a model cannot read.

    Raises:
        ApiError: there are too many, or the model reads none; those here that do are named.
    """
    if len(images) > MAX_IMAGES:
        raise field_error("messages", f"must have at most {MAX_IMAGES} images, not {len(images)}.")
    if not images or "image" in info.accepts:
        return
    names = [
        one_line(each.name, 60)
        for each in list_installed_models()
        if each.installed and "images" in each.abilities and each.name != info.model
    ]
    others = f" Models here that can: {', '.join(names[:5])}." if names else ""
    if own := info.part_hints.get("image"):
        others = f" {own}{others}"
    raise ApiError(
        400,
        f"The model {one_line(info.model, 60)} cannot read images.{others}",
        param="messages",
        code="unsupported_value",
    )
