"""Reading documents, and skipping others with a reason."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from chatlm_rag.documents import pdf
from chatlm_rag.documents.document import Document, Problem
from chatlm_rag.documents.files import Source, find_files
from chatlm_rag.documents.reader import read_documents
from tests.plugins import rag_files


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


def test_many_headings_are_read_quickly(tmp_path: Path) -> None:
    begun = time.process_time()
    read(written(tmp_path / "a.md", "# a\n" * 60_000))
    assert time.process_time() - begun < 5


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


def test_a_pdf_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = rag_files.pdf(tmp_path / "endless.pdf", *["Page after page."] * 5_000)
    run = subprocess.run

    def on_a_busy_machine(*arguments: Any, timeout: float, **more: Any) -> Any:
        return run(*arguments, timeout=60 * timeout, **more)

    monkeypatch.setattr(subprocess, "run", on_a_busy_machine)
    monkeypatch.setattr(pdf, "MAX_CPU_SECONDS", 1)
    assert reason(path) == "takes too long or too much memory to read"


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
