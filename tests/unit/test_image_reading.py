"""Images of the user: formats, orientations and colours arrive as seen; bad files are refused."""

from __future__ import annotations

import hashlib
import io
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.PngImagePlugin
import pytest

from chatlm.chat.images import (
    is_image_file,
    read_image,
    read_image_file,
    sniff_format,
)
from chatlm.errors import UsageError
from chatlm.store.blobs import MAX_IMAGE_BYTES, MAX_PIXELS
from tests import image_files
from tests.image_files import BLUE, GREEN, RED, WHITE, picture, save

HOSTILE = image_files.hostile_files()

CORNERS = {(5, 5): RED, (35, 5): GREEN, (5, 15): BLUE, (35, 15): WHITE}
"""Points of `picture`, and their colours."""


def decoded(content: bytes) -> PIL.Image.Image:
    image = PIL.Image.open(io.BytesIO(content))
    image.load()
    return image


def assert_is_picture(content: bytes, tolerance: int = 12) -> None:
    image = decoded(content)
    assert (image.mode, image.size) == ("RGB", (40, 20))
    for point, colour in CORNERS.items():
        assert image.getpixel(point) == pytest.approx(colour, abs=tolerance), point


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_its_name_and_a_next_step(name: str) -> None:
    content, piece = HOSTILE[name]
    tracemalloc.start()
    try:
        with pytest.raises(UsageError) as caught:
            read_image(content, name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert piece in caught.value.message
    assert name in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert peak < 100_000_000


def test_there_are_thirty_hostile_files() -> None:
    assert len(HOSTILE) >= 30


def test_a_file_that_is_too_large_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(UsageError, match=r"big\.png is larger than 67"):
        read_image(image_files.png() + bytes(MAX_IMAGE_BYTES), "big.png")


def test_as_many_pixels_as_allowed_are_read() -> None:
    assert MAX_PIXELS == 8000 * 8000
    with pytest.raises(UsageError, match="truncated or damaged"):  # so it was decoded
        read_image(image_files.png_of(8000, 8000, b""), "limit.png")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
def test_each_format_is_read(format: str) -> None:
    options = {"quality": 95} if format in ("JPEG", "WEBP", "AVIF") else {}
    prepared = read_image(save(picture(), format, **options), "a.x")
    assert_is_picture(prepared.content, tolerance=30)
    image = prepared.image
    assert (image.width, image.height, image.name) == (40, 20, "a.x")
    assert image.sha256 == hashlib.sha256(prepared.content).hexdigest()
    assert image.media_type == PIL.Image.MIME[decoded(prepared.content).format or ""]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photo_of_a_phone_is_read_upright(orientation: int) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    large = picture(160, 80)
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    exif[PIL.ExifTags.Base.Artist] = "SECRET-ARTIST"
    stored = large if orientation == 1 else large.transpose(PIL.Image.Transpose.ROTATE_90)
    content = save(stored, "HEIF", quality=95, exif=exif.tobytes())
    prepared = read_image(content, "photo.heic")
    image = decoded(prepared.content)
    assert (image.size, prepared.image.media_type) == ((160, 80), "image/jpeg")
    for (x, y), colour in CORNERS.items():
        assert image.getpixel((4 * x, 4 * y)) == pytest.approx(colour, abs=30)
    assert b"SECRET" not in prepared.content
    with pytest.raises(UsageError, match=r"photo\.heic is truncated or damaged"):
        read_image(content[: len(content) // 2], "photo.heic")


def test_without_its_package_heic_is_refused_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UsageError) as caught:
        read_image(HOSTILE["photo.heic"][0], "photo.heic")
    assert "not installed" in caught.value.message
    assert "chatlm[heic]" in caught.value.hint


def test_the_extension_does_not_matter() -> None:
    assert read_image(save(picture(), "JPEG"), "a.png").image.media_type == "image/jpeg"


def test_pixels_of_png_and_lossless_webp_stay_exact() -> None:
    for content in (save(picture()), save(picture(), "WEBP", lossless=True)):
        prepared = read_image(content, "a")
        assert prepared.image.media_type == "image/png"
        assert_is_picture(prepared.content, tolerance=0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_orientation_of_exif_data_is_applied(format: str, orientation: int) -> None:
    turned = {
        1: None,
        2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
        3: PIL.Image.Transpose.ROTATE_180,
        4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
        5: PIL.Image.Transpose.TRANSPOSE,
        6: PIL.Image.Transpose.ROTATE_90,
        7: PIL.Image.Transpose.TRANSVERSE,
        8: PIL.Image.Transpose.ROTATE_270,
    }[orientation]  # how a camera that was held so stores the picture
    stored = picture() if turned is None else picture().transpose(turned)
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    options = (
        {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
    )
    assert_is_picture(read_image(save(stored, format, exif=exif, **options), "a").content, 30)


def test_damaged_exif_data_is_no_obstacle() -> None:
    content = save(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage", quality=95)
    assert_is_picture(read_image(content, "a").content, 30)


def test_no_metadata_is_left() -> None:
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Artist] = "SECRET-ARTIST"
    exif.get_ifd(PIL.ExifTags.IFD.GPSInfo)[PIL.ExifTags.GPS.GPSLatitudeRef] = "SECRET-PLACE"
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("Comment", "SECRET-TEXT")
    text.add_itxt("XML:com.adobe.xmp", "SECRET-XMP")
    profile = image_files.swapped_profile()
    files = [
        save(picture(), "JPEG", exif=exif, comment=b"SECRET-COMMENT", xmp=b"SECRET-XMP"),
        save(picture(), "PNG", exif=exif, pnginfo=text, icc_profile=profile, dpi=(300, 300)),
        save(picture(), "WEBP", exif=exif, xmp=b"SECRET-XMP"),
        save(picture(), "GIF", comment=b"SECRET-COMMENT"),
        save(picture(), "PNG") + b"SECRET-TAIL",
    ]
    for content in files:
        assert b"SECRET" in content
        prepared = read_image(content, "a").content
        assert b"SECRET" not in prepared
        assert not set(decoded(prepared).info) & {"exif", "icc_profile", "xmp", "dpi", "comment"}
        assert not decoded(prepared).getexif()


def test_a_colour_profile_is_converted_to_srgb() -> None:
    swapped = read_image(save(picture(), icc_profile=image_files.swapped_profile()), "a")
    red, green = (decoded(swapped.content).getpixel(point) for point in ((5, 5), (35, 5)))
    assert isinstance(red, tuple)
    assert isinstance(green, tuple)
    assert red[1] > red[0]
    assert green[0] > green[1]


def test_a_damaged_colour_profile_is_left_out() -> None:
    assert_is_picture(read_image(save(picture(), icc_profile=b"no profile"), "a").content, 0)


def test_cmyk_becomes_rgb() -> None:
    content = save(picture().convert("CMYK"), "JPEG", quality=95)
    assert decoded(content).mode == "CMYK"
    assert_is_picture(read_image(content, "a").content, tolerance=40)


def test_grey_of_16_bits_is_scaled_and_not_clipped() -> None:
    grey = np.array([[0, 257, 32896, 65535]] * 4, dtype=np.uint16)
    content = save(PIL.Image.fromarray(grey))
    image = decoded(read_image(content, "a").content)
    assert [image.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 1, 128, 255)]


def test_what_is_transparent_becomes_white() -> None:
    alpha = PIL.Image.new("L", (40, 20), 255)
    alpha.paste(0, (0, 0, 20, 10))
    rgba = picture()
    rgba.putalpha(alpha)
    palette = rgba.quantize(16)
    grey = PIL.Image.merge("LA", (picture().convert("L"), alpha))
    for image in (rgba, palette, grey):
        shown = decoded(read_image(save(image), "a").content)
        assert shown.getpixel((5, 5)) == WHITE
        assert shown.getpixel((35, 5)) != WHITE
    keyed = save(picture(), transparency=RED)  # one colour of an image without alpha
    assert decoded(read_image(keyed, "a").content).getpixel((5, 5)) == WHITE


def test_a_palette_with_transparency_by_index_is_read() -> None:
    palette = picture().quantize(8)
    index = palette.getpixel((5, 5))
    shown = decoded(read_image(save(palette, "GIF", transparency=index), "a").content)
    assert shown.getpixel((5, 5)) == WHITE
    assert shown.getpixel((35, 5)) == pytest.approx(GREEN, abs=12)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(format: str) -> None:
    frames = [PIL.Image.new("RGB", (40, 20), colour) for colour in (GREEN, BLUE)]
    content = save(picture(), format, save_all=True, append_images=frames, lossless=True)
    prepared = read_image(content, "a")
    assert_is_picture(prepared.content, tolerance=12)
    assert prepared.notes == ("first frame only",)
    assert read_image(save(picture(), format), "a").notes == ()


def test_the_same_file_gives_the_same_bytes() -> None:
    content = save(picture(), "JPEG")
    assert read_image(content, "a").content == read_image(content, "b").content


def test_a_name_cannot_control_the_terminal() -> None:
    prepared = read_image(image_files.png(), "a\x1b[2J\nb.png")
    assert "\x1b" not in prepared.image.name
    assert "\n" not in prepared.image.name


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image_files.png())
    assert read_image_file(tmp_path / "a.png").image.name == "a.png"
    with pytest.raises(UsageError, match="b does not exist"):
        read_image_file(tmp_path / "b.png", "b")
    with pytest.raises(UsageError, match="folder"):
        read_image_file(tmp_path, "folder")


def test_images_are_known_by_content_and_suffix(tmp_path: Path) -> None:
    for name, content, expected in [
        ("photo", image_files.png(), True),
        ("photo.txt", save(picture(), "JPEG"), True),
        ("text.png", b"a text", True),
        ("text.txt", b"a text", False),
        ("paper.pdf", b"%PDF-1.7", False),
        ("BMI.txt", b"BMI is a number of the body", False),
    ]:
        (tmp_path / name).write_bytes(content)
        assert is_image_file(tmp_path / name) is expected, name
    assert not is_image_file(tmp_path)
    assert not is_image_file(tmp_path / "missing.png")


def test_formats_are_told_apart_by_their_first_bytes() -> None:
    for format in ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "TIFF", "BMP"):
        assert sniff_format(save(picture(), format)[:64]) == format
    assert sniff_format(b"") is None
