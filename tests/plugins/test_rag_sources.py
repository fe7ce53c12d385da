"""Reading documents, and skipping others with a reason."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatlm_rag.documents import ignore_patterns, reader_process, text_files
from chatlm_rag.documents.document import Document, Problem
from chatlm_rag.documents.files import LEADS_OUT, MAX_IGNORE_FILE_BYTES, Source, find_files
from chatlm_rag.documents.ignore_patterns import IgnorePatterns
from chatlm_rag.documents.reader_process import TOO_EXPENSIVE, DocumentReader
from tests.costs import processor_seconds
from tests.plugins import rag_files


def read_documents(path: Path, source: str) -> Iterator[Document | Problem]:
    with DocumentReader() as reader:
        yield from reader.read(path, source)


def read(path: Path) -> Document:
    (found,) = read_documents(path, path.name)
    assert isinstance(found, Document), found
    for section in found.sections:
        assert 0 <= section.start < section.end <= len(found.text)
    return found


def parts(document: Document) -> list[tuple[str, str]]:
    return [
        (part.place, " ".join(document.text[part.start : part.end].split()))
        for part in document.sections
    ]


def reason(path: Path) -> str:
    (found,) = read_documents(path, path.name)
    assert isinstance(found, Problem), found
    assert found.place == ""
    return found.reason


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_markdown_keeps_its_headings_and_its_text(tmp_path: Path) -> None:
    text = (
        "---\ntitle: x\n---\nBefore.\r\n\n# One\n\n## `Two` *and*\ntext\n\n"
        "```\n# no heading\n```\n\nThree\n=====\nend\n\n> # quoted\n"
    )
    document = read(written(tmp_path / "a.md", text))
    assert document.text == text
    assert [place for place, _ in parts(document)] == ["", "One > Two and", "Three"]
    assert parts(document)[1][1] == "# One ## `Two` *and* text ``` # no heading ```"
    assert [document.line_at(section.start) for section in document.sections] == [1, 6, 15]


def test_a_heading_without_text_is_not_lost(tmp_path: Path) -> None:
    document = read(written(tmp_path / "a.md", "# One\n\n## Two\n\n# Three\n"))
    assert parts(document) == [("Three", "# One ## Two # Three")]


def test_many_headings_are_read_quickly() -> None:
    few = processor_seconds(lambda: text_files.read_markdown(b"# a\n" * 2_000, "a.md"))
    many = processor_seconds(lambda: text_files.read_markdown(b"# a\n" * 20_000, "a.md"), times=1)
    assert many < 40 * few


def test_html_is_reduced_to_its_main_text(tmp_path: Path) -> None:
    page = """<html><head><title>T</title><script>var a = 1;</script></head><body>
    <nav>Home</nav><main><h1>Cats &amp; dogs</h1><p>They <b>sl</b>eep.<br>Much.</p>
    <h2>Food</h2><ul><li>fish</li><li>meat</li></ul><pre>a
      b</pre><table><tr><th>x</th><td>y</td></tr></table><!-- no --><form>Name</form></main>
    <footer>Imprint</footer></body></html>"""
    document = read(written(tmp_path / "a.html", page))
    assert parts(document) == [
        ("Cats & dogs", "Cats & dogs They sleep. Much."),
        ("Cats & dogs > Food", "Food fish meat a b x | y"),
    ]
    assert "a\n      b" in document.text


def test_html_may_declare_its_encoding(tmp_path: Path) -> None:
    page = '<html><head><meta charset="iso-8859-2"></head><body>Dvořák</body></html>'
    assert parts(read(written(tmp_path / "a.htm", page.encode("iso-8859-2"))))[0][1] == "Dvořák"


def test_a_pdf_has_a_section_for_each_page(tmp_path: Path) -> None:
    document = read(rag_files.pdf(tmp_path / "a.pdf", "First things.", "", "Third things."))
    assert parts(document) == [("page 1", "First things."), ("page 3", "Third things.")]


def test_a_docx_has_headings_and_tables(tmp_path: Path) -> None:
    assert parts(read(rag_files.docx(tmp_path / "a.docx"))) == [
        ("Garden", "Garden Roses like sun."),
        ("Garden > Water", "Water Twice a week. May | often"),
    ]


def test_a_corpus_is_a_document_for_each_line(tmp_path: Path) -> None:
    lines = (
        '{"_id": "d1", "title": "T", "text": "One."}\n\n{"_id": "d2", "text": ""}\n{no\n'
        '{"_id": 3, "title": "Only a title", "text": ""}\n{"_id": "d4", "text": "\\ud800x"}'
    )
    found = list(read_documents(written(tmp_path / "corpus.jsonl", lines), "corpus.jsonl"))
    assert [
        (one.source, one.text, one.start_line) for one in found if isinstance(one, Document)
    ] == [
        ("d1", "One.", 1),
        ("3", "Only a title", 5),
        ("d4", "?x", 6),
    ]
    wrong = [(one.place, one.reason) for one in found if isinstance(one, Problem)]
    assert wrong[0] == ("line 3", "is empty")
    assert wrong[1][0] == "line 4"
    other = read(written(tmp_path / "log.jsonl", '{"event": 1}\n'))
    assert other.source == "log.jsonl"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Grüße".encode(), "Grüße"),
        ("Grüße".encode("utf-8-sig"), "Grüße"),
        ("Grüße".encode("utf-16"), "Grüße"),
        ("Grüße".encode("utf-32"), "Grüße"),
        ("Viele Grüße aus der schönen Stadt Köln, für dich und für alle.".encode("cp1252"), None),
        ("Привет, как дела? Сегодня хорошая погода, и мы идём гулять.".encode("cp1251"), None),
    ],
)
def test_encodings_are_detected(tmp_path: Path, content: bytes, text: str | None) -> None:
    document = read(written(tmp_path / "a.txt", content))
    assert document.text == (
        text or content.decode("cp1252" if b"K\xf6ln" in content else "cp1251")
    )


@pytest.mark.parametrize("declared", ["undefined", "idna", "no-such"])
def test_an_invalid_declared_encoding_is_ignored(tmp_path: Path, declared: str) -> None:
    page = f'<meta charset="{declared}"><p>'.encode() + "Grüße aus Köln, bis bald.".encode("cp1252")
    assert "bis bald" in read(written(tmp_path / "a.html", page)).text


def test_no_encoding_produces_lone_surrogates(tmp_path: Path) -> None:
    page = b'<meta charset="unicode_escape"><p>caf\xe9 \\ud800'
    assert read(written(tmp_path / "a.html", page)).text.strip() == "café ?"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n", "is empty"),
        ("a.dat", b"\x00\x01" * 500, "is binary"),
        ("a.dat", bytes(range(1, 32)) * 50 + b"\xff", "is binary"),
        ("a.svg", b"<svg/>", "is an image"),
        ("a.html", b"<html><body><script>x()</script></body></html>", "has no text"),
        ("a.html", b"<div>" * 5000 + b"deep", "nested too deeply"),
        ("a.pdf", b"%PDF-1.7\ngarbage", "is damaged"),
        ("a.docx", b"no zip", "is not a DOCX file"),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "password-protected"),
    ],
)
def test_an_unreadable_file_has_a_reason(
    tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    assert why in reason(written(tmp_path / name, content))


def test_locked_files_scans_and_zip_bombs_are_refused(tmp_path: Path) -> None:
    locked = rag_files.pdf(tmp_path / "locked.pdf", "Secret.", password="x")
    assert reason(locked) == "is password-protected"
    assert "scanned images" in reason(rag_files.pdf(tmp_path / "scan.pdf", ""))
    assert "unpacks to more than" in reason(rag_files.zip_bomb(tmp_path / "bomb.docx"))


@pytest.mark.parametrize("suffix", [".pdf", ".html"])
def test_a_file_that_takes_too_long_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"endless{suffix}"
    if suffix == ".pdf":
        rag_files.pdf(path, *["Page after page."] * 5_000)
    else:  # each attribute is compared with all others
        written(path, "<p " + " ".join(f"a{number}" for number in range(200_000)) + ">text")
    monkeypatch.setattr(reader_process, "MAX_CPU_SECONDS", 1)
    monkeypatch.setattr(reader_process, "WALL_CLOCK_FACTOR", 600)  # the machine may be busy
    with DocumentReader() as reader:
        assert list(reader.read(path, "x")) == [Problem("", TOO_EXPENSIVE)]
        (after,) = reader.read(written(tmp_path / "a.html", "<p>Read after it."), "a.html")
    assert isinstance(after, Document)


def test_a_file_that_takes_too_long_can_be_left(tmp_path: Path) -> None:
    class Left(Exception):
        pass

    looks = 0

    def leave_at_the_third_look() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise Left

    page = "<p " + " ".join(f"a{number}" for number in range(200_000)) + ">text"
    with DocumentReader(leave_at_the_third_look) as reader, pytest.raises(Left):
        list(reader.read(written(tmp_path / "a.html", page), "a.html"))
    assert looks == 3


def test_a_file_may_have_any_name(tmp_path: Path) -> None:
    name = os.fsdecode(b"line\nand \xff.txt")
    with DocumentReader() as reader:
        for text in ("one", "two"):
            (document,) = reader.read(written(tmp_path / name, text), text)
            assert isinstance(document, Document)
            assert (document.source, document.text) == (text, text)


@pytest.mark.parametrize("name", ["pipe", "pipe.jsonl", "pipe.pdf"])
def test_a_pipe_or_a_device_is_no_document(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert reason(tmp_path / name) == "cannot be read: it is a pipe or a device, not a file"
    (tmp_path / f"zero{name}").symlink_to("/dev/zero")
    assert reason(tmp_path / f"zero{name}").endswith("it is a pipe or a device, not a file")


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.log", "x")
    os.truncate(path, 60_000_000)
    assert reason(path) == "is larger than 50 MB"


def test_a_docx_expands_no_entities(tmp_path: Path) -> None:
    import zipfile

    path = rag_files.docx(tmp_path / "a.docx")
    secret = written(tmp_path / "secret.txt", "top secret")
    doctype = f'<!DOCTYPE d [<!ENTITY e SYSTEM "file://{secret}">]>'
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    body = members["word/document.xml"].decode()
    body = body.replace("?>", "?>" + doctype, 1).replace("Roses like sun.", "Roses &e;")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"word/document.xml": body.encode()}).items():
            archive.writestr(name, content)
    assert "secret" not in " ".join(
        found.text if isinstance(found, Document) else found.reason
        for found in read_documents(path, "a.docx")
    )


def names(source: Source) -> list[str]:
    return [file.source for file in find_files(source)]


def test_ignored_hidden_and_linked_files_are_skipped(tmp_path: Path) -> None:
    top = tmp_path / "top"
    root = top / "root"
    for name in ("a.md", "b.log", "keep.log", "build/x.md", "sub/c.md", "sub/d.tmp", "sub/e.log",
                 ".hidden/x.md", ".env", "node_modules/x.js", "deep/only/here.md"):  # fmt: skip
        written(root / name, "text")
    (top / ".git").mkdir()
    written(top / ".gitignore", "root/deep/\n")
    written(root / ".gitignore", "*.log\n!keep.log\n/build/\n[\n")
    written(root / "sub" / ".gitignore", "*.tmp\n!e.log\n")
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "lost").symlink_to(root / "nowhere")
    (root / "link.md").symlink_to(root / "a.md")
    os.mkfifo(root / "pipe")
    found = {file.source: file.problem for file in find_files(Source(str(root)))}
    assert found == {
        "root/a.md": "",
        "root/keep.log": "",
        "root/link.md": "",
        "root/lost": "is a broken link",
        "root/pipe": "is not a regular file",
        "root/sub/c.md": "",
        "root/sub/e.log": "",
    }


def test_git_and_chatlm_ignore_the_same_files(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    for folder in ("", "x/", "x/y/", "z/"):
        for name in ("a.md", "b.txt", "c.log", "d.tmp"):
            written(root / f"{folder}{name}", "text")
    written(root / ".gitignore", "*.log\nx/y/*.md\n!x/y/a.md\n**/d.tmp\n/z/\n")
    written(root / "x" / ".gitignore", "/b.txt\n!c.log\n")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    wanted = sorted(f"repo/{name}" for name in listed if not name.endswith(".gitignore"))
    assert sorted(names(Source(str(root)))) == wanted


PATTERNS = """
*.log
!keep.log
/build/
a/**/b
**/c
d/**
e/*/f
[[:digit:]]x?
[!a-c]y
[z-a]y
g\\*
\\#h
\\!i
trailing\\ \n[open
j*k*l
only/
"""

NAMES = """
x.log keep.log sub/keep.log build/x sub/build/x a/b a/1/2/b z/a/b c q/c/r d d/x e/1/f e/1/2/f 1xy 12
ay dy zy by g* gg #h !i trailing [open jkl jxkyl jkxl only/x sub/only only
"""


def test_git_and_chatlm_read_the_same_patterns(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    written(tmp_path / ".gitignore", PATTERNS)
    names = [*NAMES.split(), "trailing "]
    answers = subprocess.run(
        ["git", "check-ignore", "--no-index", "--verbose", "--non-matching", "-z", "--stdin"],
        cwd=tmp_path, input="\0".join(names), capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    decisive = answers[2::4]
    expected = {
        name: rule != "" and rule[0] != "!" for name, rule in zip(names, decisive, strict=True)
    }
    assert True in expected.values()
    patterns = IgnorePatterns(PATTERNS.split("\n"))
    assert {name: patterns.selects(name, is_folder=False) for name in names} == expected


@pytest.mark.parametrize("pattern", ["*a*a*a*a*a*a*b", "*" + "a*" * 100 + "b", "**/a/" * 40 + "b"])
def test_no_pattern_takes_longer_than_its_length_times_that_of_the_name(pattern: str) -> None:
    patterns = IgnorePatterns([pattern])

    def compare(length: int) -> None:
        assert patterns.decide("a" * length, is_folder=False) is None
        assert patterns.decide("a/" * length + "c", is_folder=False) is None

    short = processor_seconds(lambda: compare(12))
    assert processor_seconds(lambda: compare(120)) < 200 * short + 0.1


@pytest.mark.parametrize("pattern", ["[a", "a\\", "[[:no:]]"])
def test_an_invalid_pattern_matches_nothing(pattern: str) -> None:
    with pytest.raises(ignore_patterns.InvalidPattern):
        ignore_patterns.parse_pattern(pattern)
    assert not IgnorePatterns([pattern]).selects(pattern, is_folder=False)


def test_a_folder_whose_gitignore_is_too_large_is_not_indexed(tmp_path: Path) -> None:
    written(tmp_path / "sub" / "a.md", "text")
    written(tmp_path / "sub" / ".gitignore", b"x" * (MAX_IGNORE_FILE_BYTES + 1))
    (found,) = find_files(Source(str(tmp_path)))
    assert found.problem == "cannot be listed: its .gitignore is larger than 1 MB"


def test_looking_for_files_can_be_left(tmp_path: Path) -> None:
    class Left(Exception):
        pass

    def leave() -> None:
        raise Left

    written(tmp_path / "ignored.md", "text")
    written(tmp_path / ".gitignore", "*")
    with pytest.raises(Left):
        list(find_files(Source(str(tmp_path)), leave))


def test_links_that_lead_out_of_the_folder_are_followed_only_if_asked_for(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    written(outside / "secret.md", "text")
    written(root / "sub" / "a.md", "text")
    (root / "inside.md").symlink_to(root / "sub" / "a.md")
    (root / "file.md").symlink_to(outside / "secret.md")
    (root / "folder").symlink_to(outside)
    (root / "again").symlink_to(root / "folder")
    (root / "loop").symlink_to(root / "loop")
    (root / "up").symlink_to(tmp_path)
    (root / "sub" / "down").symlink_to(root)
    kept = {"root/inside.md": "", "root/sub/a.md": "", "root/loop": "is a broken link"}
    out = dict.fromkeys(("root/file.md", "root/folder", "root/again", "root/up"), LEADS_OUT)
    found = {file.source: file.problem for file in find_files(Source(str(root)))}
    assert found == kept | out
    followed = Source(str(root), follow_links=True)
    found = {file.source: file.problem for file in find_files(followed)}
    assert found == kept | {"root/file.md": "", "root/again/secret.md": ""}


def test_a_source_that_is_a_link_is_followed(tmp_path: Path) -> None:
    written(tmp_path / "real" / "a.md", "text")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert [file.problem for file in find_files(Source(str(tmp_path / "link")))] == [""]


def test_a_gitignore_that_never_ends_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").symlink_to("/dev/zero")
    os.mkfifo(written(tmp_path / "sub" / "a.md", "text").parent / ".gitignore")
    assert names(Source(str(tmp_path))) == [f"{tmp_path.name}/sub/a.md"]


def test_include_and_exclude(tmp_path: Path) -> None:
    for name in ("a.md", "b.txt", "sub/c.md", "drafts/d.md"):
        written(tmp_path / name, "text")
    here = tmp_path.name
    some = Source(str(tmp_path), ("*.md",), ("drafts",))
    assert names(some) == [f"{here}/a.md", f"{here}/sub/c.md"]
    assert names(Source(str(tmp_path / "b.txt"))) == ["b.txt"]
    with pytest.raises(FileNotFoundError):
        names(Source(str(tmp_path / "nowhere")))
