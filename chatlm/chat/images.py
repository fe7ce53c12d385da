"""Read images of the user: checked, upright, in sRGB, and without metadata."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import ChainMap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from chatlm.config.paths import check_regular_file
from chatlm.errors import UsageError
from chatlm.hub.disk import human_bytes
from chatlm.store.blobs import MAX_IMAGE_BYTES, MAX_PIXELS
from chatlm.text import one_line
from chatlm.types.messages import Message
from chatlm.types.parts import Image, Part, PreparedImage, Text

if TYPE_CHECKING:
    import PIL.Image

IMAGE_SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".heic", ".heif", ".avif"}
)
"""Suffixes of image files, in lower case; what is in a file is decided by its content."""

SNIFFED_BYTES = 512
"""Bytes at the beginning of a file that tell what it is."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF")
_KNOWN_FORMATS = "PNG, JPEG, WebP, GIF, AVIF and HEIC"

_LOSSY_FORMATS = frozenset({"JPEG", "MPO", "WEBP", "AVIF", "HEIF"})
"""Formats of photos, which are written as JPEG; others, and lossless WebP, are written as PNG."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_MAX_NAME_WIDTH = 200

_BACKGROUND = "white"
"""What is seen through a transparent image, as on a page; most models know no transparency."""


def read_image(content: bytes, name: str) -> PreparedImage:
    """Check and decode an image file, and write its pixels to a new one.

    It is turned as its EXIF orientation says and converted to sRGB; what is transparent becomes
    white. Of an animation the first frame is taken.

    Args:
        content: a PNG, JPEG, WebP, GIF or AVIF file, or a HEIC file where pillow-heif is installed.
        name: of the file, for the message part and for errors; may be empty.

    Raises:
        UsageError: it is empty, of another format, truncated, damaged, or larger than
            `MAX_IMAGE_BYTES` or `MAX_PIXELS`; sizes are checked before anything is decoded.
    """
    import PIL.Image

    name = one_line(name, _MAX_NAME_WIDTH)
    shown = name or "The image"
    _check_size(len(content), shown)
    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            # of many pixels, which are counted here, and of damaged metadata, which is dropped
            warnings.simplefilter("ignore")
            with PIL.Image.open(io.BytesIO(content), formats=_formats(content)) as image:
                _check_pixels(image.size, shown)
                source = image.format or ""
                if source != "MPO" and getattr(image, "is_animated", False):
                    notes.append("first frame only")
                pixels = _to_rgb(image)
    except PIL.Image.DecompressionBombError as error:
        raise _too_many_pixels(shown) from error
    except PIL.UnidentifiedImageError as error:
        raise _not_an_image(content, shown) from error
    except (MemoryError, RecursionError) as error:
        raise UsageError(
            f"{shown} cannot be decoded: there is not enough memory",
            hint="Make it smaller, then attach it again.",
        ) from error
    except UsageError:
        raise
    except Exception as error:  # Pillow's readers fail in many ways on damaged files
        raise UsageError(
            f"{shown} is truncated or damaged: {one_line(str(error), 100) or 'no image in it'}",
            hint="Save or download it again.",
        ) from error
    lossy = source in _LOSSY_FORMATS and b"VP8L" not in content
    return _finish(pixels, name, lossy=lossy, notes=notes)


def prepare_pixels(pixels: PIL.Image.Image, name: str) -> PreparedImage:
    """Return an image of pixels that did not come from a file, such as a rendered page.

    Raises:
        UsageError: it is too large.
    """
    _check_pixels(pixels.size, name or "The image")
    return _finish(_to_rgb(pixels), name, lossy=False)


def read_image_file(path: Path, name: str = "") -> PreparedImage:
    """Read an image from a file, see `read_image`.

    Args:
        path: the file.
        name: for the message part and for errors; that of the file if empty.

    Raises:
        UsageError: it is missing or cannot be read, or as `read_image`.
    """
    name = one_line(name or path.name, _MAX_NAME_WIDTH)
    try:
        check_regular_file(path)
        stat = path.stat()
        return _read_version(path, stat.st_mtime_ns, stat.st_size, name)
    except FileNotFoundError as error:
        raise UsageError(f"{name} does not exist", hint="Check the path.") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{name} cannot be read: {why}") from error


@lru_cache(maxsize=4)  # an image is read when it is counted, and again when it is sent
def _read_version(path: Path, _modified: int, _size: int, name: str) -> PreparedImage:
    with path.open("rb") as file:
        return read_image(file.read(MAX_IMAGE_BYTES + 1), name)


def is_image_file(path: Path) -> bool:
    """Return whether a file is to be read as an image: by its first bytes, else by its suffix.

    So a text that is called `.png` is refused as an image rather than sent as a text.
    """
    try:
        check_regular_file(path)
        with path.open("rb") as file:
            begin = file.read(SNIFFED_BYTES)
    except (OSError, ValueError):
        return False
    return sniff_format(begin) is not None or path.suffix.lower() in IMAGE_SUFFIXES


def sniff_format(begin: bytes) -> str | None:
    """Return the format of an image file by its first bytes, such as `PNG`; None if it is none.

    Args:
        begin: at least 12 bytes.
    """
    if begin.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if begin.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if begin.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if begin.startswith(b"RIFF") and begin[8:12] == b"WEBP":
        return "WEBP"
    if begin[4:8] == b"ftyp":
        if begin[8:12] in (b"avif", b"avis"):
            return "AVIF"
        if begin[8:12] in _HEIF_BRANDS:
            return "HEIF"
    if begin.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    if begin.startswith(b"BM") and begin[6:10] == b"\0\0\0\0":
        return "BMP"
    return None


def message_parts(
    text: str, images: Sequence[PreparedImage], kept: Sequence[Image] = ()
) -> tuple[Part, ...]:
    """Return the parts of a message: each image once, then the text, as most models were trained;
    images with an offset are between pieces of the text.

    Args:
        text: of the message.
        images: its new images.
        kept: images that are stored already.
    """
    first = [each.image for each in images if not each.offset]
    parts: list[Part] = [*dict.fromkeys((*kept, *first))]
    start = 0
    for each in sorted(images, key=lambda image: image.offset):
        if each.offset:
            parts += [
                *([Text(text[start : each.offset])] if each.offset > start else []),
                each.image,
            ]
            start = each.offset
    if text[start:] or not start:
        parts.append(Text(text[start:]))
    return tuple(parts)


def kept_images(message: Message, text: str) -> list[Image]:
    """Return the images of a message that stay when its text is replaced: all but those that the
    old text names and the new one does not."""
    return [
        part
        for part in message.parts
        if isinstance(part, Image)
        and not (part.name and part.name in message.text and part.name not in text)
    ]


def with_unsaved(
    stored: Mapping[str, bytes], images: Sequence[PreparedImage]
) -> Mapping[str, bytes]:
    """Return the bytes of stored images and of those that are not stored yet, by hash."""
    new = {each.image.sha256: each.content for each in images}
    # a ChainMap reads a stored image only when it is asked for, and writes to the first map alone
    return ChainMap(new, stored) if new else stored  # type: ignore[arg-type]


def _finish(
    pixels: PIL.Image.Image, name: str, *, lossy: bool, notes: Sequence[str] = ()
) -> PreparedImage:
    """Write RGB pixels to a file and describe it."""
    encoded = _encode(pixels, lossy=lossy)
    if len(encoded) > MAX_IMAGE_BYTES:
        raise UsageError(
            f"{name or 'The image'} takes {human_bytes(len(encoded))} as a PNG file, more than "
            f"{human_bytes(MAX_IMAGE_BYTES)}",
            hint="Make it smaller, or save it as JPEG.",
        )
    sha256 = hashlib.sha256(encoded).hexdigest()
    media_type = "image/jpeg" if lossy else "image/png"
    image = Image(media_type, pixels.width, pixels.height, sha256, name)
    return PreparedImage(image, encoded, tuple(notes))


def _formats(content: bytes) -> tuple[str, ...]:
    """Return the formats that a file may have: few readers, so that few can be attacked."""
    if sniff_format(content[:SNIFFED_BYTES]) == "HEIF" and _register_heif():
        return ("HEIF",)
    return _FORMATS


def _register_heif() -> bool:
    """Let Pillow read HEIC files; return False without pillow-heif."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _check_size(size: int, shown: str) -> None:
    if not size:
        raise UsageError(f"{shown} is empty", hint="Save or download it again.")
    if size > MAX_IMAGE_BYTES:
        raise UsageError(
            f"{shown} is larger than {human_bytes(MAX_IMAGE_BYTES)}",
            hint="Make it smaller, then attach it again.",
        )


def _check_pixels(size: tuple[int, int], shown: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise _too_many_pixels(shown, f"{width:,} × {height:,} pixels")
    if min(size) < 1:
        raise UsageError(f"{shown} has no pixels", hint="Save or download it again.")


def _too_many_pixels(shown: str, size: str = "too many pixels") -> UsageError:
    return UsageError(
        f"{shown} has {size}; at most {MAX_PIXELS // 1_000_000} million are read",
        hint="Make it smaller, then attach it again.",
    )


def _not_an_image(content: bytes, shown: str) -> UsageError:
    """Return the error for a file that no reader knows, which says what it is if that is plain."""
    begin = content[:SNIFFED_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    found = sniff_format(content[:SNIFFED_BYTES])
    if found == "HEIF" and not _register_heif():
        return UsageError(
            f"{shown} is a HEIC file, and the package that reads them is not installed",
            hint='Install it with pip install "chatlm[heic]", or save the image as JPEG.',
        )
    if found in ("TIFF", "BMP", "AVIF"):
        what = f"{'an' if found == 'AVIF' else 'a'} {found} file"
    elif begin.startswith((b"<!doctype html", b"<html")):
        what = "a web page"
    elif begin.startswith(b"<svg") or (begin.startswith(b"<?xml") and b"<svg" in begin):
        what = "an SVG drawing"
    elif begin.startswith(b"%pdf"):
        what = "a PDF file"
    elif found:
        return UsageError(f"{shown} is truncated or damaged", hint="Save or download it again.")
    else:
        return UsageError(
            f"{shown} is not an image in a known format",
            hint=f"Known formats are {_KNOWN_FORMATS}.",
        )
    return UsageError(
        f"{shown} is {what}, which is not read as an image", hint="Save it as PNG or JPEG first."
    )


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Decode an image into upright RGB pixels, in sRGB and on white."""
    import PIL.Image
    import PIL.ImageOps

    profile = image.info.get("icc_profile")
    image.load()
    with suppress(Exception):  # of damaged EXIF data, which viewers ignore as well
        PIL.ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        image = _in_8_bits(image)
    if image.mode in ("P", "PA", "LA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    rgb = _in_srgb(image, profile)
    if image.mode != "RGBA":
        return rgb
    page = PIL.Image.new("RGB", rgb.size, _BACKGROUND)
    page.paste(rgb, mask=image.getchannel("A"))
    return page


def _in_8_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Scale grey of 16 bits, which Pillow's own conversion would clip."""
    import numpy as np
    import PIL.Image

    grey = np.asarray(image, dtype=np.float32) / 257.0
    return PIL.Image.fromarray(np.clip(grey + 0.5, 0, 255).astype(np.uint8))


def _in_srgb(image: PIL.Image.Image, profile: bytes | None) -> PIL.Image.Image:
    """Return the colours without transparency; a profile that cannot be used is left out."""
    import PIL.ImageCms

    if image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    if profile:
        with suppress(PIL.ImageCms.PyCMSError, OSError, ValueError, TypeError):
            return _converted(image, profile)
    return image.convert("RGB")


def _converted(image: PIL.Image.Image, profile: bytes) -> PIL.Image.Image:
    """Convert colours from an ICC profile to sRGB."""
    import PIL.ImageCms

    converted = PIL.ImageCms.profileToProfile(
        image,
        PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        PIL.ImageCms.createProfile("sRGB"),
        outputMode="RGB",
    )
    if converted is None:  # only where it was asked to change the image itself
        raise ValueError("not converted")
    return converted


def _encode(pixels: PIL.Image.Image, *, lossy: bool) -> bytes:
    """Write pixels alone: no profile, EXIF data, comments or times."""
    import PIL.Image

    bare = PIL.Image.new("RGB", pixels.size)
    bare.paste(pixels)
    buffer = io.BytesIO()
    if lossy:
        bare.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        bare.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()
