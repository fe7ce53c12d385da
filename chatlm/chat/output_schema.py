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
    file = _file(text)
    is_file = file is not None and (file.suffix == ".json" or file.is_file())
    return parse_schema(_read(file) if file is not None and is_file else text)


def read_grammar(text: str) -> Grammar:
    """Return the grammar in a file, or one that was typed after its kind.

    Args:
        text: path of a .lark or .gbnf file, or such as `regex:[0-9]+`.

    Raises:
        UsageError: the file cannot be read, or it is not a grammar.
    """
    file = _file(text)
    kind = "" if file is None else file.suffix.removeprefix(".")
    if file is None or kind not in GRAMMAR_KINDS:
        return parse_grammar(text)
    return parse_grammar(f"{kind}:{_read(file)}")


def _file(text: str) -> Path | None:
    """Return the path that a text may be."""
    is_path = len(text) < 1024 and not any(each in text for each in '\n\0{"')
    return Path(text).expanduser() if is_path else None


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > 4 * MAX_SCHEMA_CHARACTERS:
            raise UsageError(f"{one_line(str(file), 80)} is too large for a schema or grammar")
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"{one_line(str(file), 80)} cannot be read: {reason}") from None
