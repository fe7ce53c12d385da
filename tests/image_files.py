"""Images for tests, and files that look like images but are none, damaged or dangerous."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import PIL.Image
import PIL.ImageCms

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 160, 60), (40, 60, 200), (255, 255, 255)


def picture(width: int = 40, height: int = 20) -> PIL.Image.Image:
    """Draw red at the top left, green at the top right, blue below on the left, white elsewhere."""
    image = PIL.Image.new("RGB", (width, height), WHITE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    return image


def save(image: PIL.Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """Return an image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int = 40, height: int = 20) -> bytes:
    """Return `picture` as a PNG file."""
    return save(picture(width, height))


def solid_png(colour: tuple[int, int, int], size: int = 16) -> bytes:
    """Return a square of one colour as a PNG file."""
    return save(PIL.Image.new("RGB", (size, size), colour))


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png_of(width: int, height: int, pixels: bytes, *extra: bytes) -> bytes:
    """Return a PNG file in RGB whose header says what it likes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", pixels)
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body + chunk(b"IEND", b"")


def hostile_files() -> Mapping[str, tuple[bytes, str]]:
    """Return files that are refused: name -> content, and a piece of the error."""
    good_png, good_jpeg = png(400, 300), save(picture(400, 300), "JPEG")
    good_gif, good_webp = save(picture(), "GIF"), save(picture(400, 300), "WEBP")
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    bomb = zlib.compress(b"\0" * 10_000_000, 9)
    text_bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 5_000_000, 9))
    return {
        "empty.png": (b"", "is empty"),
        "one-byte.png": (b"\x89", "not an image"),
        "text.png": (b"Just a text.\n", "not an image"),
        "zeros.jpg": (bytes(5000), "not an image"),
        "drawing.png": (svg, "an SVG drawing"),
        "xml-drawing.png": (b'<?xml version="1.0"?>\n' + svg, "an SVG drawing"),
        "page.jpg": (b"\n<!DOCTYPE html><html><img src=x></html>", "a web page"),
        "paper.png": (b"%PDF-1.7\n1 0 obj\n", "a PDF file"),
        "scan.tiff": (save(picture(), "TIFF"), "a TIFF file"),
        "paint.bmp": (save(picture(), "BMP"), "a BMP file"),
        "program.png": (b"\x7fELF" + bytes(100), "not an image"),
        "script.gif": (b"#!/bin/sh\nrm -rf /\n", "not an image"),
        "archive.webp": (b"PK\x03\x04" + bytes(60), "not an image"),
        "riff.webp": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(60), "not an image"),
        "cut.png": (good_png[: len(good_png) // 2], "truncated or damaged"),
        "cut-header.png": (good_png[:20], "truncated or damaged"),
        "cut-end.jpg": (good_jpeg[:-400], "truncated or damaged"),
        "cut-header.jpg": (good_jpeg[:30], "truncated or damaged"),
        "cut.gif": (good_gif[:40], "truncated or damaged"),
        "cut.webp": (good_webp[:60], "truncated or damaged"),
        "only-magic.png": (b"\x89PNG\r\n\x1a\n", "truncated or damaged"),
        "only-magic.jpg": (b"\xff\xd8\xff", "truncated or damaged"),
        "flipped-bits.png": (
            good_png[:60] + bytes(255 - byte for byte in good_png[60:90]) + good_png[90:],
            "truncated or damaged",
        ),
        "header-bomb.png": (png_of(100_000, 100_000, bomb), "million"),
        "wide-bomb.png": (png_of(2**31 - 1, 1, bomb), "million"),
        "just-too-large.png": (png_of(8001, 8000, bomb), "8,001 × 8,000 pixels"),
        "no-pixels.png": (png_of(0, 10, bomb), "damaged"),
        "half-stream.png": (png_of(2000, 2000, bomb[:2000]), "damaged"),
        "text-bomb.png": (png_of(4, 4, zlib.compress(b"\0" * 52), text_bomb), "damaged"),
        "huge-gif.gif": (
            b"GIF89a" + struct.pack("<HH", 65535, 65535) + good_gif[10:],
            "million",
        ),
        "photo.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), "photo.heic"),
        "broken.avif": (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(50), "broken.avif"),
    }


def swapped_profile() -> bytes:
    """Return an ICC profile in which red and green are swapped."""
    srgb = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    head, tags = srgb[:132], srgb[132:]
    tags = tags.replace(b"rXYZ", b"tmp ", 1).replace(b"gXYZ", b"rXYZ", 1)
    return head + tags.replace(b"tmp ", b"gXYZ", 1)
