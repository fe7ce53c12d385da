"""Schemas and grammars that the user names by a file or types."""

from __future__ import annotations

from pathlib import Path

from chatlm.errors import UsageError
from chatlm.text import one_line
from chatlm.types.schemas import (
    GRAMMAR_KINDS,
    MAX_SCHEMA_CHARACTERS,
    Grammar,
    Schema,
    parse_grammar,
    parse_schema,
)


def read_schema(text: str) -> Schema:
    """Return the schema in a file, or one that was typed.

    Args:
        text: path of a JSON file, JSON, or the short notation `name str, age int`.

    Raises:
        UsageError: the file cannot be read, or it is not a schema.
    """
    file = _file(text, ".json")
    return parse_schema(text if file is None else _read(file))


def read_grammar(text: str) -> Grammar:
    """Return the grammar in a file, or one that was typed after its kind.

    Args:
        text: path of a .lark or .gbnf file, or such as `regex:[0-9]+`.

    Raises:
        UsageError: the file cannot be read, or it is not a grammar.
    """
    for kind in GRAMMAR_KINDS:
        if file := _file(text, f".{kind}"):
            return parse_grammar(f"{kind}:{_read(file)}")
    return parse_grammar(text)


def _file(text: str, suffix: str) -> Path | None:
    """Return the path that a text is, if there is such a file or it has the suffix."""
    if "\n" in text or text.lstrip().startswith("{") or len(text) > 4096 or "\0" in text:
        return None
    path = Path(text).expanduser()
    try:
        return path if path.suffix == suffix or path.is_file() else None
    except OSError:
        return None


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > 4 * MAX_SCHEMA_CHARACTERS:
            raise UsageError(f"{one_line(str(file), 80)} is too large for a schema or grammar")
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"{one_line(str(file), 80)} cannot be read: {reason}") from None
