"""Extract the chapters of EPUB books."""

from __future__ import annotations

import posixpath
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from chatlm_rag.documents import html
from chatlm_rag.documents.archives import check_archive
from chatlm_rag.documents.document import (
    Document,
    Section,
    SectionText,
    UnreadableFile,
    join_sections,
)

_CONTAINER = "META-INF/container.xml"
_PROTECTION = "META-INF/encryption.xml"


def read(path: Path, source: str) -> Document:
    """Read an EPUB book in the order of its chapters.

    Raises:
        UnreadableFile: it is not an EPUB file, copy-protected, too large when unpacked, or has no
            text.
        OSError: it cannot be read.
    """
    check_archive(path, "an EPUB file")
    parts: list[SectionText] = []
    try:
        with zipfile.ZipFile(path) as archive:
            for number, name in enumerate(_chapters(archive), 1):
                parts += _chapter(archive, name, number)
            is_protected = _PROTECTION in archive.namelist()
    except (KeyError, ValueError, zipfile.BadZipFile, RuntimeError) as error:
        raise UnreadableFile("is not an EPUB file, or damaged") from error
    if is_protected and not parts:
        raise UnreadableFile("is copy-protected")
    return join_sections(parts, source, path.stat().st_size)


def _chapters(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the files in the order in which they are read."""
    container = _parse(archive.read(_CONTAINER))
    package_name = container.xpath("string(//*[local-name()='rootfile']/@full-path)")
    package = _parse(archive.read(package_name))
    files = {
        item.get("id"): posixpath.normpath(
            posixpath.join(posixpath.dirname(package_name), unquote(item.get("href", "")))
        )
        for item in package.xpath("//*[local-name()='manifest']/*[local-name()='item']")
    }
    order = package.xpath("//*[local-name()='spine']/*[local-name()='itemref']/@idref")
    return [files[name] for name in order if name in files]


def _chapter(archive: zipfile.ZipFile, name: str, number: int) -> list[SectionText]:
    """Return the sections of a chapter; none if it has no text, such as a cover."""
    try:
        document = html.read(archive.read(name), name)
    except UnreadableFile as error:
        if str(error) in ("is empty", "has no text"):
            return []
        raise UnreadableFile(f"has a chapter ({name}) that {error}") from error

    def part(section: Section) -> SectionText:
        text = document.text[section.start : section.end]
        return SectionText(text, section.place or f"chapter {number}", section.title)

    return [part(section) for section in document.sections]


def _parse(data: bytes) -> Any:
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        return etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(str(error)) from error
