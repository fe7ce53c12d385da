"""What a reply must look like: JSON schemas and grammars, as the user writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from chatlm.errors import ChatlmError, UsageError
from chatlm.text import dump_json, one_line

Schema = Mapping[str, Any]
"""A JSON schema that is an object."""

MAX_SCHEMA_CHARACTERS = 512 * 1024
"""Limit of a schema or grammar as text."""

MAX_SCHEMA_DEPTH = 64
"""Limit of nested objects and arrays in a schema."""

MAX_SCHEMA_PARTS = 10_000
"""Limit of the objects and lists in a schema; checking so many takes 1 to 3 seconds."""

GRAMMAR_KINDS = ("regex", "lark", "gbnf")

_OBJECT_TYPES: Mapping[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
}
"""Types of the short notation."""


class SchemaMismatch(ChatlmError):
    """A reply is not what its schema asks for."""


@dataclass(frozen=True)
class Grammar:
    """A grammar that the whole answer must match."""

    kind: Literal["regex", "lark", "gbnf"]
    text: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.text}"


def parse_grammar(text: str) -> Grammar:
    """Parse a grammar as a setting holds it, such as `regex:[0-9]+`.

    Raises:
        UsageError: it does not begin with the kind, or is empty or too long.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in GRAMMAR_KINDS:
        raise UsageError(
            f"a grammar must begin with its kind, not {one_line(text, 40)!r}",
            hint="Write regex:, lark: or gbnf: before it, such as regex:[0-9]+",
        )
    if not rest.strip():
        raise UsageError(f"the {kind} grammar is empty")
    _check_length("grammar", rest)
    return Grammar(kind, rest)  # type: ignore[arg-type]  # one of GRAMMAR_KINDS


def parse_schema(text: str) -> Schema:
    """Parse a JSON schema: as JSON, or in the short notation `name str, age int`.

    In the short notation fields are divided by commas or line breaks. A field is a name, a type
    (`str`, `int`, `float`, `bool`, `date`; `str` where it is left out; `[]` after it for a list;
    `red|green` for a choice) and, after a colon, a description.

    Raises:
        UsageError: it is neither, or no schema; the message says where.
    """
    _check_length("schema", text)
    if not text.lstrip().startswith("{"):
        return _parse_short_notation(text)
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise UsageError(f"the schema is not JSON: {error}") from None
    except RecursionError:
        raise UsageError("the schema is nested too deeply") from None
    _check_text(text)
    return dict(schema)


@lru_cache(maxsize=64)
def _check_text(text: str) -> None:
    """Check a schema once, though it is parsed often: a large one takes seconds."""
    check_schema(json.loads(text))


def check_depth(schema: Any) -> None:
    """Check that a value is not nested too deeply to be worked on.

    Raises:
        UsageError: it is.
    """
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        raise UsageError(f"the schema is nested more than {MAX_SCHEMA_DEPTH} levels deep")


def check_schema(schema: Any) -> None:
    """Check that a value is a JSON schema and not nested too deeply.

    Raises:
        UsageError: it is not; the message says where.
    """
    if not isinstance(schema, Mapping):
        raise UsageError("a schema must be a JSON object")
    check_depth(schema)
    if sum(isinstance(each, Mapping | list) for each in _all_values(schema)) > MAX_SCHEMA_PARTS:
        raise UsageError(f"the schema has more than {MAX_SCHEMA_PARTS:,} objects and lists")
    from jsonschema import exceptions, validators  # takes 60 ms

    draft = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        draft.check_schema(dict(schema))
    except RecursionError:  # a regular expression; the schema itself is not deep
        raise UsageError("a pattern of the schema is nested too deeply") from None
    except exceptions.SchemaError as error:
        place = "/".join(map(str, error.absolute_path)) or "the top"
        raise UsageError(
            f"the schema is invalid at {one_line(place, 80)}: {one_line(error.message, 200)}",
            hint="JSON schemas: https://json-schema.org/learn",
        ) from None


def parse_reply(schema: Schema, text: str) -> Any:
    """Parse a reply and check it against its schema.

    Raises:
        SchemaMismatch: it is not JSON, or the schema does not allow it.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaMismatch(f"The reply is not JSON: {error}") from None
    from jsonschema import exceptions, validators

    draft = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        problem = exceptions.best_match(draft(schema).iter_errors(value))
    except Exception as error:  # such as a reference that leads nowhere, or to a server
        raise SchemaMismatch(f"The reply cannot be checked: {error}") from None
    if problem is not None:
        raise SchemaMismatch(f"The reply does not fit the schema: {one_line(problem.message, 200)}")
    return value


def schema_text(schema: Schema) -> str:
    """Return a schema as compact JSON, as a setting holds it."""
    return dump_json(dict(schema))


def _check_length(what: str, text: str) -> None:
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise UsageError(
            f"the {what} has {len(text):,} characters; the limit is {MAX_SCHEMA_CHARACTERS:,}"
        )


def _all_values(value: Any) -> Iterator[Any]:
    """Yield a value and all within it, without recursion."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        yield each
        if isinstance(each, Mapping | list):
            waiting += each.values() if isinstance(each, Mapping) else each


def _depth(value: Any) -> int:
    """Count nested objects and arrays, without recursion."""
    depth, level = 0, [value]
    while level:
        children = [
            child
            for each in level
            if isinstance(each, Mapping | list)
            for child in (each.values() if isinstance(each, Mapping) else each)
        ]
        depth += any(isinstance(each, Mapping | list) for each in level)
        if depth > MAX_SCHEMA_DEPTH:
            return depth
        level = children
    return depth


_FIELD = re.compile(r"(?P<name>[\w.$-]+)(?:[ \t]+(?P<type>[^:]+?))?[ \t]*(?::(?P<about>.*))?")


def _parse_short_notation(text: str) -> Schema:
    properties: dict[str, Any] = {}
    for line in _fields(text):
        match = _FIELD.fullmatch(line)
        if match is None:
            raise UsageError(
                f"the schema has a field that cannot be read: {one_line(line, 60)!r}",
                hint="Write fields as `name str, age int, tags str[], mood good|bad`, or the "
                "schema as JSON.",
            )
        name, kind, about = match["name"], match["type"] or "str", (match["about"] or "").strip()
        if name in properties:
            raise UsageError(f"the schema has the field {one_line(name, 40)!r} twice")
        properties[name] = _type_schema(kind) | ({"description": about} if about else {})
    if not properties:
        raise UsageError("the schema is empty", hint="Name fields, such as `name str, age int`.")
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _fields(text: str) -> Iterator[str]:
    divider = r"\n" if "\n" in text.strip() else ","
    yield from filter(None, (part.strip() for part in re.split(divider, text)))


def _type_schema(kind: str) -> dict[str, Any]:
    if kind.endswith("[]"):
        return {"type": "array", "items": _type_schema(kind[:-2].rstrip())}
    if "|" in kind:
        return {"enum": [choice.strip() for choice in kind.split("|")]}
    if kind not in _OBJECT_TYPES:
        raise UsageError(
            f"the schema has the unknown type {one_line(kind, 40)!r}",
            hint=f"Types: {', '.join(_OBJECT_TYPES)}; with [] after it a list; red|green a choice.",
        )
    return dict(_OBJECT_TYPES[kind])
