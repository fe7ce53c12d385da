"""Extract the main text and headings of HTML pages, without scripts, forms and navigation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from chatlm_rag.documents.document import Document, DocumentBuilder, UnreadableFile
from chatlm_rag.documents.tables import has_header, markdown_table
from chatlm_rag.documents.text_files import decode

_SKIPPED_TAGS = frozenset({
    "script", "style", "noscript", "template", "head", "nav", "footer", "form", "button", "select",
    "option", "input", "textarea", "svg", "math", "iframe", "object", "embed", "audio", "video",
    "canvas", "dialog",
})  # fmt: skip


_INLINE_TAGS = frozenset({
    "a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "dfn", "em", "font", "i", "ins", "kbd",
    "label", "mark", "q", "s", "samp", "small", "span", "strong", "sub", "sup", "time", "tt", "u",
    "var", "wbr",
})  # fmt: skip


_HEADING = re.compile(r"h([1-6])")


_CHARSET = re.compile(rb"""<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)=["']?([\w.:-]+)""", re.I)


def read(data: bytes, source: str) -> Document:
    """Read an HTML page.

    Raises:
        UnreadableFile: it is empty, binary, nested too deeply, or has no text outside the skipped
            elements.
    """
    from lxml import etree, html

    declared = _CHARSET.search(data[:4096])
    text = decode(data, declared[1].decode("ascii") if declared else "")
    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    try:
        root = html.document_fromstring(text.encode(), parser=parser)
    except (etree.LxmlError, ValueError, AssertionError) as error:
        raise UnreadableFile("is not valid HTML") from error
    if any("depth" in entry.message.lower() for entry in parser.error_log):
        raise UnreadableFile("is nested too deeply")
    builder = DocumentBuilder()
    _TextExtractor(builder).extract(_main_element(root))
    document_text, sections = builder.finish()
    if not sections:
        raise UnreadableFile("has no text")
    return Document(source, document_text, sections, bytes_read=len(data))


def _main_element(root: Any) -> Any:
    """Return the only `main` element, else the only `article`, else the root."""
    for path in (".//main", ".//*[@role='main']", ".//article"):
        matches = root.findall(path)
        if len(matches) == 1:
            return matches[0]
    return root


class _TextExtractor:
    """Extractor that collects inline text until the enclosing block ends.

    Recursion is safe: the parser limits the depth of the tree to 256 elements.
    """

    def __init__(self, builder: DocumentBuilder) -> None:
        self._builder = builder
        self._buffer: list[str] = []

    def extract(self, element: Any) -> None:
        """Add all blocks of an element to the document."""
        self._visit_children(element)
        self._flush_block()

    def _visit_children(self, element: Any) -> None:
        self._buffer.append(element.text or "")
        for child in element:
            if isinstance(child.tag, str) and child.tag not in _SKIPPED_TAGS:
                self._visit(child)
            self._buffer.append(child.tail or "")

    def _visit(self, element: Any) -> None:
        heading = _HEADING.fullmatch(element.tag)
        if heading:
            self._flush_block()
            self._builder.add_heading(int(heading[1]), _collapse_whitespace(_iter_text(element)))
        elif element.tag == "pre":
            self._flush_block()
            self._builder.add_block("".join(_iter_text(element)))
        elif element.tag == "table" and (rows := _data_rows(element)):
            self._flush_block()
            self._builder.add_block(markdown_table(rows))
        elif element.tag == "tr":
            self._flush_block()
            self._builder.add_block(
                " | ".join(_collapse_whitespace(_iter_text(cell)) for cell in element)
            )
        elif element.tag == "br":
            self._buffer.append("\n")
        elif element.tag in _INLINE_TAGS:
            self._visit_children(element)
        else:
            self._flush_block()
            self._visit_children(element)
            self._flush_block()

    def _flush_block(self) -> None:
        self._builder.add_block(_collapse_whitespace(self._buffer))
        self._buffer = []


def _data_rows(table: Any) -> list[list[str]]:
    """Return the rows of a table with a header; none of another one, such as for a layout."""
    found = table.findall(".//tr")
    if table.find(".//table") is not None or not found or found[0].find("th") is None:
        return []
    rows = [[_collapse_whitespace(_iter_text(cell)) for cell in row] for row in found]
    return rows if has_header(rows) else []


def _iter_text(element: Any) -> Iterator[str]:
    """Yield the text below an element, without that of skipped elements."""
    yield element.text or ""
    for child in element:
        if isinstance(child.tag, str) and child.tag not in _SKIPPED_TAGS:
            yield from _iter_text(child)
        yield child.tail or ""


def _collapse_whitespace(texts: Any) -> str:
    return " ".join("".join(texts).split())
