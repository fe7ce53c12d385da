"""Workbooks, slides, books, e-mails, tables and code: what is read, and where it is from."""

from __future__ import annotations

import zipfile
from email.message import EmailMessage
from pathlib import Path

import pytest

from chatlm_rag.documents import code
from chatlm_rag.documents.document import Document, Problem
from chatlm_rag.documents.reader_process import DocumentReader
from chatlm_rag.documents.tables import find_tables
from chatlm_rag.index.chunks import Chunk, Chunker, Chunking
from chatlm_rag.reading.statements import statements
from tests.models import embedder_model


def read(path: Path) -> Document:
    with DocumentReader() as reader:
        (found,) = reader.read(path, path.name)
    assert isinstance(found, Document), found
    return found


def reason(path: Path) -> str:
    with DocumentReader() as reader:
        (found,) = reader.read(path, path.name)
    assert isinstance(found, Problem), found
    return found.reason


def parts(document: Document) -> list[tuple[str, str]]:
    return [
        (part.place, document.text[part.start : part.end].strip()) for part in document.sections
    ]


def chunks(document: Document, tokens: int = 40) -> list[Chunk]:
    chunker = Chunker(embedder_model() / "tokenizer.json", Chunking(tokens, 0))
    return list(chunker.split(document, 0))


def test_a_workbook_is_a_table_for_each_sheet(tmp_path: Path) -> None:
    import datetime

    from openpyxl import Workbook

    book = Workbook()
    rent = book.active
    assert rent is not None
    rent.title = "Rent"
    rent.append(["Rent of the house"])
    rent.append([])
    rent.append(["Tenant", "Due", "Euro"])
    rent.append(["Ann | Bob", datetime.date(2024, 5, 1), 940.5])
    rent.append(["Cem", None, 1000])
    book.create_sheet("Empty")
    book.save(tmp_path / "a.xlsx")
    document = read(tmp_path / "a.xlsx")
    assert parts(document) == [
        (
            "sheet Rent",
            "Rent of the house\n\n| Tenant | Due | Euro |\n|---|---|---|\n"
            "| Ann \\| Bob | 2024-05-01 | 940.5 |\n| Cem |  | 1000 |",
        )
    ]
    assert list(statements(document.text)) == [
        "Rent of the house",
        "Tenant: Ann | Bob, Due: 2024-05-01, Euro: 940.5",
        "Tenant: Cem, Euro: 1000",
    ]


def test_slides_keep_their_number_title_tables_and_notes(tmp_path: Path) -> None:
    from pptx import Presentation
    from pptx.util import Inches

    slides = Presentation()
    first = slides.slides.add_slide(slides.slide_layouts[1])
    first.shapes.title.text = "Plan"
    first.placeholders[1].text = "Build in May"
    first.notes_slide.notes_text_frame.text = "Ask Ann first"
    second = slides.slides.add_slide(slides.slide_layouts[6])
    table = second.shapes.add_table(2, 2, Inches(1), Inches(1), Inches(4), Inches(1)).table
    for at, text in enumerate(("Month", "Cost", "May", "12")):
        table.cell(at // 2, at % 2).text = text
    slides.save(str(tmp_path / "a.pptx"))
    document = read(tmp_path / "a.pptx")
    assert parts(document) == [
        ("slide 1", "Plan\n\nBuild in May\n\nAsk Ann first"),
        ("slide 2", "| Month | Cost |\n|---|---|\n| May | 12 |"),
    ]
    assert [section.title for section in document.sections] == ["Plan", ""]


def epub(path: Path, **chapters: str) -> Path:
    items = "".join(f'<item id="{name}" href="text/{name}%20.xhtml"/>' for name in chapters)
    order = "".join(f'<itemref idref="{name}"/>' for name in chapters)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OPS/book.opf"/></rootfiles></container>',
        )
        archive.writestr(
            "OPS/book.opf",
            f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest>'
            f"<spine>{order}</spine></package>",
        )
        for name, body in chapters.items():
            archive.writestr(f"OPS/text/{name} .xhtml", f"<html><body>{body}</body></html>")
    return path


def test_a_book_is_read_in_the_order_of_its_chapters(tmp_path: Path) -> None:
    path = epub(
        tmp_path / "a.epub",
        z="<img src='cover.png'/>",
        b="<h1>Storm</h1><p>It rained.</p>",
        a="<p>The end.</p>",
    )
    assert parts(read(path)) == [("Storm", "Storm\n\nIt rained."), ("chapter 3", "The end.")]


def test_a_mail_says_who_wrote_and_what(tmp_path: Path) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "Ann <ann@example.org>", "bob@example.org", "Käse"
    mail.set_content("Bitte Käse kaufen.")
    mail.add_alternative("<p>Bitte <b>Käse</b> kaufen.</p>", subtype="html")
    mail.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="list.pdf")
    (tmp_path / "a.eml").write_bytes(mail.as_bytes())
    assert parts(read(tmp_path / "a.eml")) == [
        (
            "Käse",
            "From: Ann <ann@example.org>\nTo: bob@example.org\nSubject: Käse\n"
            "Attached: list.pdf\n\nBitte Käse kaufen.",
        )
    ]
    only_html = EmailMessage()
    only_html["From"] = "ann@example.org"
    only_html.set_content("<p>It <b>rains</b>.</p>", subtype="html")
    (tmp_path / "b.eml").write_bytes(only_html.as_bytes())
    assert parts(read(tmp_path / "b.eml"))[0][1].endswith("It rains.")


@pytest.mark.parametrize("suffix", [".xlsx", ".pptx", ".epub", ".eml"])
def test_damaged_files_are_refused_with_a_reason(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"no such file")
    assert reason(path).startswith("is not a")
    if suffix != ".eml":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x", "y")
        assert "damaged" in reason(path)
        path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1rest")
        assert "password-protected" in reason(path)


def test_each_part_of_a_long_table_has_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"Tenant {number};{number} May;{900 + number}" for number in range(40)]
    path.write_text("\n".join(["Name;Due;Euro", *rows]) + "\n", encoding="utf-8")
    found = chunks(read(path))
    assert len(found) > 3
    assert not found[0].header
    for chunk in found[1:]:
        assert chunk.header == "| Name | Due | Euro |\n|---|---|---|"
        assert chunk.text.startswith(f"| Tenant {chunk.line - 2} |")
        assert chunk.indexed_text == chunk.shown_text == f"{chunk.header}\n{chunk.text}"
        assert f"Name: Tenant {chunk.line - 2}, Due: " in next(statements(chunk.shown_text))


def test_text_behind_a_table_has_no_header(tmp_path: Path) -> None:
    text = "| a | b |\n|---|:-:|\n| 1 | 2 |\n| 3 | 4 |\n\nText with | a bar.\n"
    (body,) = find_tables(text)
    assert (text[body.start : body.end], body.header) == (
        "| 1 | 2 |\n| 3 | 4 |\n",
        "| a | b |\n|---|---|",
    )
    assert [each.header for each in find_tables(text.replace("\n", "\r\n"))] == [body.header]
    assert list(find_tables("|" + "-" * 1_000_000 + "x\n")) == []
    long = "| " + " | ".join(["x" * 90] * 4) + " |\n|---|---|---|---|\n| 1 | 2 | 3 | 4 |\n"
    assert list(find_tables(long)) == []


PYTHON = '''"""Sums."""
import os

LIMIT = 3


# about the cart
class Cart:
    """A cart."""

    def total(self):
        return sum(self.prices)

    # é
    @property
    def size(self):
        return len(self.prices)


def main():
    print(Cart().total())
'''


def test_code_is_split_into_its_definitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "MAX_WHOLE_CHARS", 100)
    monkeypatch.setattr(code, "SMALL_CHARS", 0)
    document = code.read(PYTHON.encode(), "a.py", ".py")
    assert "".join(document.text[s.start : s.end] for s in document.sections) == PYTHON
    assert [place for place, text in parts(document) if text] == [
        "", "Cart", "Cart > total", "Cart > size", "main",
    ]  # fmt: skip
    assert dict(parts(document))["Cart > size"].startswith("# é\n    @property")
    assert [(chunk.place, chunk.line) for chunk in chunks(document, 200)][1:3] == [
        ("Cart", 7),
        ("Cart > total", 11),
    ]


@pytest.mark.parametrize(
    ("suffix", "text", "places"),
    [
        (".js", "const a = 1;\nfunction f() {}\nconst g = async () => 2;\n", ["", "f", "g"]),
        (".ts", "export class A { b(): void {} }\ninterface C { d: string }\n", ["A", "C"]),
        (".tsx", "export const A = () => <b/>;\n", ["A"]),
        (".go", "package a\ntype B struct { n int }\nfunc (b *B) C() {}\n", ["", "B", "C"]),
        (".rs", "use a;\nimpl A { fn b(&self) {} }\nmod c { }\n", ["", "A", "c"]),
        (".java", "package a;\nclass B { void c() {} }\n", ["", "B"]),
        (".c", "int a;\nstatic char *b(int c) { return 0; }\n", ["", "b"]),
        (".hpp", "namespace a { class B {}; }\nint A::c() { return 1; }\n", ["a", "A::c"]),
    ],
)
def test_code_in_many_languages(
    monkeypatch: pytest.MonkeyPatch, suffix: str, text: str, places: list[str]
) -> None:
    monkeypatch.setattr(code, "SMALL_CHARS", 0)
    document = code.read(text.encode(), "a", suffix)
    assert [place for place, found in parts(document) if found] == places
    assert "".join(document.text[s.start : s.end] for s in document.sections) == text


def test_small_definitions_are_one_section() -> None:
    document = code.read(b"def a(): pass\ndef b(): pass\nclass C:\n    x = 1\n", "a.py", ".py")
    assert [place for place, _ in parts(document)] == ["a, b, C"]


def test_code_that_is_nested_without_end_is_read_whole() -> None:
    text = "namespace a { " * 5_000
    document = code.read(text.encode(), "a.cpp", ".cpp")
    assert "".join(document.text[s.start : s.end] for s in document.sections) == text


def test_code_with_errors_is_read_whole() -> None:
    text = "def a(:\n  x = = 1\nclass B\n}}} def c(): pass"
    document = code.read(text.encode(), "a.py", ".py")
    assert "".join(document.text[s.start : s.end] for s in document.sections) == text
