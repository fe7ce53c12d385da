"""Attachments become texts and images: files, pages of PDF files, addresses of the web."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import PIL.Image
import pytest

from chatlm.chat.attached import Attached, join_attached, read_attached, split_fragment
from chatlm.chat.attachments import read_text_file
from chatlm.chat.images import read_image
from chatlm.chat.pdf_pages import parse_ranges
from chatlm.chat.web_images import MAX_DOWNLOAD_BYTES, fetch_image
from chatlm.errors import UsageError
from chatlm.types.parts import MAX_IMAGES
from tests import image_files
from tests.image_files import RED


def read(path: Path, fragment: str = "") -> Attached:
    return read_attached(path, path.name, fragment, read_text_file)


@pytest.fixture
def pdf(tmp_path: Path) -> Path:
    """A PDF file of three pages, each of one colour."""
    colours = [(220, 30, 30), (30, 160, 60), (40, 60, 200)]
    first, *others = [PIL.Image.new("RGB", (200, 300), colour) for colour in colours]
    path = tmp_path / "paper.pdf"
    first.save(path, "PDF", save_all=True, append_images=others, resolution=100)
    return path


def test_an_image_is_attached_as_an_image_and_a_text_as_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image_files.png())
    (tmp_path / "a.txt").write_text("a text")
    assert [each.image.name for each in read(tmp_path / "a.png").images] == ["a.png"]
    assert read(tmp_path / "a.txt") == Attached(("a.txt\n```\na text\n```",))


def test_pages_of_a_pdf_file_are_images(pdf: Path) -> None:
    images = read(pdf, "pages=3,1").images
    assert [each.image.name for each in images] == ["paper.pdf, page 3", "paper.pdf, page 1"]
    assert (images[1].image.width, images[1].image.height) == (300, 451)  # 150 dots per inch
    middle = PIL.Image.open(io.BytesIO(images[1].content)).getpixel((150, 225))
    assert middle == pytest.approx(RED, abs=6)


@pytest.mark.parametrize("pages", ["0", "4", "2-9", "x", "", "3-1", "1;2"])
def test_other_pages_are_refused_with_what_there_is(pdf: Path, pages: str) -> None:
    with pytest.raises(UsageError, match=r"paper\.pdf: no pages .*(3 pages|such as 1-3)"):
        read(pdf, f"pages={pages}")


def test_a_damaged_pdf_file_is_refused(tmp_path: Path, pdf: Path) -> None:
    for content in (b"", b"no pdf", pdf.read_bytes()[:300]):
        (tmp_path / "bad.pdf").write_bytes(content)
        with pytest.raises(UsageError, match=r"bad\.pdf is not a PDF file, or damaged"):
            read(tmp_path / "bad.pdf", "pages=1")
    with pytest.raises(UsageError, match=r"missing\.pdf cannot be read"):
        read(tmp_path / "missing.pdf", "pages=1")


def test_ranges_of_pages_are_read() -> None:
    assert parse_ranges("1-3,7", 9) == [1, 2, 3, 7]
    assert parse_ranges("2-", 4) == [2, 3, 4]
    assert parse_ranges("3,1,3", 4) == [3, 1]


def test_fragments_are_split_from_paths() -> None:
    assert split_fragment("a b.pdf#pages=1-3") == ("a b.pdf", "pages=1-3")
    assert split_fragment("scan.png#text") == ("scan.png", "text")
    assert split_fragment("c#.md") == ("c#.md", "")
    assert split_fragment("notes#heading") == ("notes#heading", "")


def test_an_image_counts_once_and_there_are_limits() -> None:
    one = Attached(images=(read_image(image_files.png(), "a"),))
    assert len((one + one).images) == 1
    many = [
        Attached(images=(read_image(image_files.png(10 + n, 10), "a"),))
        for n in range(MAX_IMAGES + 1)
    ]
    with pytest.raises(UsageError, match="more than 20 images"):
        join_attached(many)


@pytest.fixture
def server() -> Iterator[str]:
    """The `HOST:PORT` of a server with images and other things."""
    files = {
        "/a%20photo.png": ("image/png", image_files.png()),
        "/page.png": ("text/html", b"<html>not here</html>"),
        "/lies.png": ("image/png", b"<!doctype html><html>"),
        "/large.png": ("image/png", bytes(MAX_DOWNLOAD_BYTES + 1)),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/a%20photo.png")
                self.end_headers()
                return
            kind, content = files.get(self.path, ("", b""))
            self.send_response(200 if kind else 404)
            self.send_header("Content-Type", kind or "text/plain")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{http.server_address[1]}"
        http.shutdown()


def test_an_image_of_the_web_is_downloaded(server: str) -> None:
    for path in ("/a%20photo.png", "/moved"):
        prepared = fetch_image(f"http://{server}{path}", [server])
        assert (prepared.image.name, prepared.image.width) == ("a photo.png", 40)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/page.png", "is no image but text/html"),
        ("/lies.png", "a web page"),
        ("/large.png", "larger than 20 MB"),
        ("/missing.png", "status 404"),
    ],
)
def test_what_is_no_image_there_is_refused(server: str, path: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        fetch_image(f"http://{server}{path}", [server])


def test_a_server_that_is_not_public_is_refused_unless_it_is_named(server: str) -> None:
    with pytest.raises(UsageError, match="not a public address"):
        fetch_image(f"http://{server}/a%20photo.png")
