"""Split source code into sections: its functions, classes and their methods.

A syntax tree says where they begin and end, so that a passage is a whole function where that fits,
and carries its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from chatlm_rag.documents.document import Document, Section, heading_path
from chatlm_rag.documents.text_files import decode

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

_GRAMMARS: Mapping[str, tuple[str, str]] = {
    "python": ("tree_sitter_python", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "java": ("tree_sitter_java", "language"),
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "go": ("tree_sitter_go", "language"),
    "rust": ("tree_sitter_rust", "language"),
}
"""Package and function of the grammar of each language."""

LANGUAGES: Mapping[str, str] = {
    ".py": "python", ".pyi": "python",
    ".js": "javascript", ".mjs": "javascript", ".cjs": "javascript", ".jsx": "javascript",
    ".ts": "typescript", ".mts": "typescript", ".tsx": "tsx",
    ".java": "java",
    ".c": "c", ".h": "cpp",
    ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp", ".hh": "cpp", ".hpp": "cpp",
    ".go": "go", ".rs": "rust",
}  # fmt: skip
"""Languages whose code is split, by suffix of the file."""

MAX_WHOLE_CHARS = 800
"""A longer class is split into its methods."""

SMALL_CHARS = 300
"""Neighbouring definitions of at most this length in all are one section."""

_DEFINITION = re.compile(
    r"(function|method|class|struct|union|enum|trait|impl|interface|module|mod|namespace|type|record"
    r"|constructor|decorated|abstract_class|generator_function|template)"
    r"(_signature)?(_definition|_declaration|_item|_specifier)"
)

_TRANSPARENT = (
    "export_statement",
    "lexical_declaration",
    "variable_declaration",
    "linkage_specification",
)
"""Statements that contain a definition, such as `export` before a class."""

_BODIES = (
    "block", "class_body", "declaration_list", "field_declaration_list", "interface_body",
    "enum_body", "statement_block",
)  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """A piece of the code, in bytes."""

    start: int
    end: int
    name: str
    """The names of the class and the function; empty for other code."""


def read(data: bytes, source: str, suffix: str) -> Document:
    """Read a file of code with a section for each definition.

    Args:
        data: of the file.
        source: the name of its document.
        suffix: of the file, one of `LANGUAGES`.

    Raises:
        UnreadableFile: it is empty or not text.
    """
    text = decode(data)
    encoded = text.encode()
    root = _parser(LANGUAGES[suffix])().parse(encoded).root_node
    try:
        parts = _merge_small(list(_parts(root, 0, len(encoded), "")))
    except RecursionError:  # code that is nested thousands of times
        parts = [_Part(0, len(encoded), "")]
    sections: list[Section] = []
    start = bytes_before = 0
    for part in parts:
        end = start + len(encoded[bytes_before : part.end].decode())
        sections.append(Section(start, end, heading_path([part.name]), heading_path([part.name])))
        start, bytes_before = end, part.end
    return Document(
        source, text, tuple(sections), start_line=1, has_file_lines=True, bytes_read=len(data)
    )


@cache
def _parser(language: str) -> Callable[[], Parser]:
    from tree_sitter import Language, Parser

    package, function = _GRAMMARS[language]
    grammar = Language(getattr(import_module(package), function)())
    return lambda: Parser(grammar)


def _parts(node: Node, start: int, end: int, above: str) -> Iterator[_Part]:
    """Yield the parts between two offsets: each definition with what stands right above it, such as
    comments, and other code."""
    at = start
    code_end = start
    for child in node.children:
        name = _name(child)
        if not name:
            if child.is_named and "comment" not in child.type:
                code_end = min(child.end_byte, end)
            continue
        if at < code_end <= child.start_byte:
            yield _Part(at, code_end, above)
            at = code_end
        full = f"{above} > {name}" if above else name
        stop = min(child.end_byte, end)
        body = _body(child)
        if body is not None and stop - at > MAX_WHOLE_CHARS and any(map(_name, body.children)):
            yield from _parts(body, at, stop, full)
        else:
            yield _Part(at, stop, full)
        at = code_end = stop
    if at < end:
        yield _Part(at, end, above)


def _name(node: Node) -> str:
    """Return the name of a definition; empty if the node is none."""
    if node.type in _TRANSPARENT:
        return next(filter(None, map(_name, node.named_children)), "")
    if node.type == "variable_declarator":  # const f = () => …
        value = node.child_by_field_name("value")
        is_function = value is not None and "function" in value.type
        return _text(node.child_by_field_name("name")) if is_function else ""
    if not _DEFINITION.fullmatch(node.type):
        return ""
    inner = node.child_by_field_name("definition")  # below decorators
    if inner is not None:
        return _name(inner)
    if node.type == "template_declaration":
        return next(filter(None, map(_name, node.named_children)), "")
    named = node.child_by_field_name("name")
    if named is None and node.type == "impl_item":
        named = node.child_by_field_name("type")
    if named is None and node.type == "type_declaration":  # of Go
        named = next((each.child_by_field_name("name") for each in node.named_children), None)
    if named is None:
        named = node.child_by_field_name("declarator")
        while named is not None and (inner := named.child_by_field_name("declarator")) is not None:
            named = inner
    return _text(named)


def _body(node: Node) -> Node | None:
    """Return the node with the members of a class; None for a function."""
    if "function" in node.type or "method" in node.type:
        return None
    for field in ("definition", "declaration", "body"):
        inner = node.child_by_field_name(field)
        if inner is not None:
            return inner if inner.type in _BODIES else _body(inner)
    return None


def _text(node: Node | None) -> str:
    return node.text.decode(errors="replace") if node is not None and node.text else ""


def _merge_small(parts: list[_Part]) -> list[_Part]:
    """Return the parts with small neighbours below the same class joined."""
    merged: list[_Part] = []
    for part in parts:
        last = merged[-1] if merged else None
        above = part.name.rpartition(" > ")[0]
        if last and part.end - last.start <= SMALL_CHARS and _above(last.name) == above:
            names = [name for name in (last.name, part.name.rpartition(" > ")[2]) if name]
            merged[-1] = _Part(last.start, part.end, ", ".join(names))
        else:
            merged.append(part)
    return merged


def _above(name: str) -> str:
    return name.rpartition(" > ")[0]
