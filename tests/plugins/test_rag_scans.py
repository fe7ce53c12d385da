"""Text in images and scanned PDF files is read by OCR, with page and confidence."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest

from chatlm.chat import ocr
from chatlm.chat.attached import read_attached
from chatlm.chat.attachments import read_text_file
from chatlm.errors import UsageError
from chatlm_rag.documents import reader, scans
from chatlm_rag.documents.document import UnreadableFile

SENTENCE = "The lighthouse was built in 1874."


def page(text: str) -> PIL.Image.Image:
    image = PIL.Image.new("RGB", (620, 120), "white")
    font = PIL.ImageFont.load_default(30)
    PIL.ImageDraw.Draw(image).text((20, 40), text, fill="black", font=font)
    return image


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    page(SENTENCE).save(tmp_path / "scan.png")
    return tmp_path / "scan.png"


@pytest.fixture
def scanned_pdf(tmp_path: Path) -> Path:
    path = tmp_path / "scan.pdf"
    page(SENTENCE).save(path, "PDF", resolution=150)
    return path


@pytest.fixture
def without_ocr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_text_in_an_image_is_attached_and_indexed(scan: Path) -> None:
    (block,) = read_attached(scan, "scan.png", "text", read_text_file).blocks
    title, _, text, _ = block.split("\n")
    assert title.startswith("scan.png, text read by OCR, confidence ")
    assert text == SENTENCE
    document = reader.read_whole(scan, "scan.png")
    assert document.text == SENTENCE
    assert document.sections[0].place.startswith("OCR ")


def test_scanned_pages_are_read_with_page_and_confidence(scanned_pdf: Path) -> None:
    document = reader.read_whole(scanned_pdf, "scan.pdf")
    assert document.text.strip() == SENTENCE
    assert document.sections[0].place.startswith("page 1, OCR ")


def test_an_image_without_text_is_said_to_have_none(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (200, 200), "white").save(tmp_path / "blank.png")
    with pytest.raises(UnreadableFile, match="is an image without text"):
        reader.read_whole(tmp_path / "blank.png", "blank.png")
    with pytest.raises(UsageError, match=r"blank\.png has no text"):
        read_attached(tmp_path / "blank.png", "blank.png", "text", read_text_file)


@pytest.mark.usefixtures("without_ocr")
def test_without_its_packages_the_message_says_how_to_install_them(
    scan: Path, scanned_pdf: Path
) -> None:
    for path in (scan, scanned_pdf):
        with pytest.raises(UnreadableFile, match=r"pip install 'chatlm\[ocr\]'"):
            reader.read_whole(path, path.name)
    with pytest.raises(UsageError) as caught:
        read_attached(scan, "scan.png", "text", read_text_file)
    assert "chatlm[ocr]" in caught.value.hint


def test_too_many_scanned_pages_are_refused(scanned_pdf: Path) -> None:
    with pytest.raises(UnreadableFile, match="has 31 scanned pages"):
        list(scans.read_pages(scanned_pdf, range(1, 32)))


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UnreadableFile, match="truncated or damaged"):
        reader.read_whole(tmp_path / "bad.png", "bad.png")


def test_texts_beside_each_other_are_one_line() -> None:
    import numpy as np

    def box(left: float, top: float) -> np.ndarray:
        return np.array([[left, top], [left + 9, top], [left + 9, top + 9], [left, top + 9]])

    lines = ocr._join_lines([box(50, 1), box(0, 0), box(0, 20)], ["b", "a", "c"])
    assert lines == ["a  b", "c"]
