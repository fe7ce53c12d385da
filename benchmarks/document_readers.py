"""Compare chatlm's readers of documents with markitdown: what is read, and where it is from.

Run it with `python -m benchmarks.document_readers --markitdown PYTHON`; PYTHON is that of an
environment with `markitdown[docx,pptx,xlsx,pdf]`. Documents with known sentences are written in
each format. A sentence is *found* if its words stand together, and *placed* if the page,
slide, sheet, heading or chapter that the reader names is that of the sentence. Markdown names a
place by the last heading or comment before the sentence.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from chatlm_rag.documents.document import Document
from chatlm_rag.documents.reader_process import DocumentReader
from tests.plugins.rag_files import pdf

_CONVERT = """
import json, sys
from markitdown import MarkItDown
reader, found = MarkItDown(), {}
for path in sys.argv[1:]:
    try:
        found[path] = reader.convert(path).text_content
    except Exception as error:
        found[path] = f"!{type(error).__name__}"
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Sentence:
    """A sentence of a document."""

    text: str
    place: str
    """Words that name where it stands, in any order and case."""


def write_documents(folder: Path) -> dict[Path, list[Sentence]]:
    """Write a document in each format; return the sentences of each."""
    return {
        pdf(folder / "a.pdf", "The lease ends in May.", "Cats are allowed."): [
            Sentence("The lease ends in May.", "page 1"),
            Sentence("Cats are allowed.", "page 2"),
        ],
        _write_docx(folder / "a.docx"): [
            Sentence("Roses like sun.", "garden"),
            Sentence("Twice a week.", "water"),
            Sentence("Keep the hose dry.", "water"),
            Sentence("May often", "water"),
        ],
        _write_pptx(folder / "a.pptx"): [
            Sentence("Build in May", "slide 1"),
            Sentence("Ask Ann first", "slide 1"),
            Sentence("June 12", "slide 2"),
        ],
        _write_xlsx(folder / "a.xlsx"): [
            Sentence("Ann 940.5", "rent"),
            Sentence("Cem 2024-05-01", "dates"),
        ],
        _write_epub(folder / "a.epub"): [
            Sentence("It rained.", "storm"),
            Sentence("The end came soon.", "chapter 2"),
        ],
        _write_mail(folder / "a.eml"): [
            Sentence("Bitte Käse kaufen.", "einkauf"),
            Sentence("list.pdf", "einkauf"),
        ],
        _write_page(folder / "a.html"): [Sentence("Trains leave at nine.", "timetable")],
    }


NOISE = ("Cookies make this page better.", "Home Products Contact")
"""Texts of the web page that are not of its main part."""


def _write_docx(path: Path) -> Path:
    from docx import Document as Word

    word = Word()
    word.add_heading("Garden", 1)
    word.add_paragraph("Roses like sun.")
    word.add_heading("Water", 2)
    word.add_paragraph("Twice a week.")
    word.add_paragraph("Keep the hose dry.", style="List Bullet")
    table = word.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "May", "often"
    word.save(str(path))
    return path


def _write_pptx(path: Path) -> Path:
    from pptx import Presentation
    from pptx.util import Inches

    slides: Any = Presentation()
    first = slides.slides.add_slide(slides.slide_layouts[1])
    first.shapes.title.text, first.placeholders[1].text = "Plan", "Build in May"
    first.notes_slide.notes_text_frame.text = "Ask Ann first"
    second = slides.slides.add_slide(slides.slide_layouts[6])
    table = second.shapes.add_table(2, 2, Inches(1), Inches(1), Inches(4), Inches(1)).table
    for at, text in enumerate(("Month", "Cost", "June", "12")):
        table.cell(at // 2, at % 2).text = text
    slides.save(str(path))
    return path


def _write_xlsx(path: Path) -> Path:
    from datetime import date

    from openpyxl import Workbook

    book: Any = Workbook()
    book.active.title = "Rent"
    for row in (["Tenant", "Euro"], ["Ann", 940.5]):
        book.active.append(row)
    dates = book.create_sheet("Dates")
    for row in (["Tenant", "Due"], ["Cem", date(2024, 5, 1)]):
        dates.append(row)
    book.save(path)
    return path


def _write_epub(path: Path) -> Path:
    chapters = {"one": "<h1>Storm</h1><p>It rained.</p>", "two": "<p>The end came soon.</p>"}
    items = "".join(f'<item id="{name}" href="{name}.xhtml"/>' for name in chapters)
    order = "".join(f'<itemref idref="{name}"/>' for name in chapters)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OPS/book.opf"/></rootfiles></container>',
        )
        archive.writestr(
            "OPS/book.opf",
            f'<package xmlns="http://www.idpf.org/2007/opf"><metadata/><manifest>{items}'
            f"</manifest><spine>{order}</spine></package>",
        )
        for name, body in chapters.items():
            archive.writestr(f"OPS/{name}.xhtml", f"<html><body>{body}</body></html>")
    return path


def _write_mail(path: Path) -> Path:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "ann@example.org", "bob@example.org", "Einkauf"
    mail.set_content("Bitte Käse kaufen.")
    mail.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="list.pdf")
    path.write_bytes(mail.as_bytes())
    return path


def _write_page(path: Path) -> Path:
    article = "<h1>Timetable</h1><p>Trains leave at nine.</p>" + "<p>They run daily.</p>" * 8
    path.write_text(
        f"<html><body><nav>Home Products Contact</nav><main><article>{article}</article></main>"
        "<footer><form>Cookies make this page better.</form></footer></body></html>",
        encoding="utf-8",
    )
    return path


def words(text: str) -> str:
    """Return the words of a text, separated by blanks, without marks of Markdown."""
    return " ".join(re.findall(r"[\w.-]*\w", text.lower()))


def chatlm_parts(paths: Iterable[Path]) -> dict[Path, list[tuple[str, str]]]:
    """Return the places and texts of chatlm's sections, by file."""
    found: dict[Path, list[tuple[str, str]]] = {}
    with DocumentReader() as reader:
        for path in paths:
            documents = [
                each for each in reader.read(path, path.name) if isinstance(each, Document)
            ]
            found[path] = [
                (f"{part.place} {part.title}", document.text[part.start : part.end])
                for document in documents
                for part in document.sections
            ]
    return found


def markitdown_parts(python: Path, paths: Iterable[Path]) -> dict[Path, list[tuple[str, str]]]:
    """Return the headings or comments of markitdown's Markdown, and the texts below, by file."""
    command = [str(python), "-c", _CONVERT, *map(str, paths)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    found = {}
    for path, text in told.items():
        pieces = re.split(r"^(#+ .*|<!-- .* -->)$", text, flags=re.MULTILINE)
        parts, trail = [("", pieces[0])], ""
        for mark, below in zip(pieces[1::2], pieces[2::2], strict=True):
            trail = f"{mark} {trail}" if mark.startswith("#") else mark
            parts.append((trail, below))
        found[Path(path)] = parts
    return found


def judge(
    documents: Mapping[Path, list[Sentence]], read: Mapping[Path, list[tuple[str, str]]]
) -> dict[str, dict[str, int]]:
    """Return how many sentences of each format are found and placed."""
    rows: dict[str, dict[str, int]] = {}
    for path, sentences in documents.items():
        holding = [
            [place for place, text in read[path] if words(each.text) in words(text)]
            for each in sentences
        ]
        rows[path.suffix] = {
            "sentences": len(sentences),
            "found": sum(bool(places) for places in holding),
            "placed": sum(
                any(set(words(each.place).split()) <= set(words(place).split()) for place in places)
                for each, places in zip(sentences, holding, strict=True)
            ),
            "noise": sum(words(each) in words(text) for each in NOISE for _, text in read[path]),
        }
    columns = next(iter(rows.values()))
    rows["all"] = {column: sum(row[column] for row in rows.values()) for column in columns}
    return rows


def main() -> None:
    """Run the benchmark and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--markitdown", type=Path, required=True, metavar="PYTHON")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        documents = write_documents(Path(folder))
        runs: dict[str, Callable[[], dict[Path, list[tuple[str, str]]]]] = {
            "chatlm": lambda: chatlm_parts(documents),
            "markitdown": lambda: markitdown_parts(options.markitdown, documents),
        }
        for name, run in runs.items():
            start = time.perf_counter()
            results[name] = judge(documents, run())
            print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
