"""Grammars of the tool calls that a model writes, in the syntax of its family.

Each writer describes what follows a start marker, the end marker included, as a Lark grammar of
llguidance. Whatever fits it is read by the reader of the same family in `tool_call_syntax`, and its
arguments fit the schema of their tool.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chatlm.engines.schema_bounds import MAX_ITEMS, bounded

JSON_OPTIONS = {
    "whitespace_flexible": False,
    "whitespace_pattern": "[ ]?",
    "lenient": True,
    "coerce_one_of": True,
}
"""How arguments are written: on one line, with or without a space, as models learned it. Tools come
with schemas of all kinds, so keywords that cannot be followed are left out rather than refused."""

MAX_TEXT = 4000
"""Limit in characters of a text argument whose schema has none."""

Schemas = Mapping[str, Mapping[str, Any]]
"""Name of a tool -> JSON schema of its parameters."""

_OPEN = {"$ref", "allOf", "anyOf", "oneOf", "patternProperties", "unevaluatedProperties"}
"""Keywords that may add properties to those of a schema."""


@dataclass
class GrammarWriter:
    """Collects the rules of one grammar."""

    marker: Callable[[str], str]
    """Returns a text of the format as a Lark expression, its control tokens as such."""
    end: str = ""
    """A Lark expression of the end marker; empty where the reply ends as well."""
    several: bool = True
    """Whether one block may have several calls, in formats with lists."""
    _rules: list[str] = field(default_factory=list)

    def rule(self, body: str, attributes: str = "") -> str:
        """Add a rule and return its name."""
        name = f"rule_{len(self._rules)}"
        self._rules.append(f"{name}{attributes}: {body}")
        return name

    def json(self, schema: Mapping[str, Any] | bool) -> str:
        """Add a rule for JSON that fits a schema, and return its name."""
        values = bounded(schema) if isinstance(schema, Mapping) else {}
        return self.rule(f"%json {json.dumps({**values, 'x-guidance': JSON_OPTIONS})}")

    def arguments(self, schema: Mapping[str, Any]) -> str:
        """Add a rule for the arguments of a tool, a JSON object, and return its name.

        There are no other arguments than the schema names, unless it says so.
        """
        closed = {} if _OPEN & schema.keys() else {"additionalProperties": False}
        return self.json({**closed, **schema, "type": "object"})

    def any_of(self, options: Sequence[str]) -> str:
        """Add a rule for one of several expressions, and return its name."""
        return self.rule(" | ".join(options))

    def repeated(self, call: str, separator: str = "") -> str:
        """Return an expression for one call, or several where that is allowed."""
        return f"{call} ({separator} {call})*" if self.several else call

    def grammar(self, start: str) -> str:
        """Return the whole grammar."""
        lines = ["%llguidance {}", f"start: {start} {self.end}", *self._rules]
        return "\n".join(lines) + "\n"


WriteGrammar = Callable[[Schemas, GrammarWriter], str]
"""`(schemas, writer) -> grammar` of what follows a start marker."""


def quoted(text: str) -> str:
    """Return a text as a Lark expression; nothing for an empty one."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def _calls(schemas: Schemas, writer: GrammarWriter, call: Callable[[str, str], str]) -> str:
    """Add a rule for a call of any tool.

    Args:
        schemas: of the tools.
        writer: of the grammar.
        call: `(name, rule of the arguments) -> expression`.
    """
    return writer.any_of([call(name, writer.arguments(schema)) for name, schema in schemas.items()])


def _json_call(name_key: str, arguments_key: str, first: str = "") -> Callable[[str, str], str]:
    """Return what writes a call as a JSON object.

    Args:
        name_key: key of the tool's name.
        arguments_key: key of the arguments.
        first: Lark expression of entries before these.
    """

    def call(name: str, arguments: str) -> str:
        head = f'"{{" {first} ' + quoted(f'"{name_key}": {json.dumps(name, ensure_ascii=False)}, ')
        return f'{head} {quoted(json.dumps(arguments_key) + ": ")} {arguments} "}}"'

    return call


def json_object(schemas: Schemas, writer: GrammarWriter) -> str:
    """Write the grammar of one `{"name": …, "arguments": {…}}`."""
    call = _calls(schemas, writer, _json_call("name", "arguments"))
    return writer.grammar(_within_lines(call, writer))


def llama_object(schemas: Schemas, writer: GrammarWriter) -> str:
    """Write the grammar of one `{"name": …, "parameters": {…}}`."""
    call = _calls(schemas, writer, _json_call("name", "parameters"))
    return writer.grammar(call)


def json_list(schemas: Schemas, writer: GrammarWriter) -> str:
    """Write the grammar of `[{"name": …, "arguments": {…}}, …]`."""
    call = _calls(schemas, writer, _json_call("name", "arguments"))
    return writer.grammar(f'" "? "[" {writer.repeated(call, quoted(", "))} "]"')


def command_list(schemas: Schemas, writer: GrammarWriter) -> str:
    """Write the grammar of Command's list, whose calls begin with their number."""
    number = writer.rule(r"/[0-9]{1,2}/")
    first = f"{quoted(chr(34) + 'tool_call_id' + chr(34) + ': ' + chr(34))} {number} "
    first += quoted('", ')
    call = _calls(schemas, writer, _json_call("tool_name", "parameters", first))
    calls = writer.repeated(call, r'"," "\n"? " "{0,4}')
    return writer.grammar(rf'"[" "\n"? " "{{0,4}} {calls} "\n"? "]"')


def named_objects(schemas: Schemas, writer: GrammarWriter) -> str:
    """Write the grammar of `[{"NAME": {…}}, …]`."""
    call = _calls(
        schemas,
        writer,
        lambda name, arguments: (
            '"{" ' + quoted(json.dumps(name, ensure_ascii=False) + ": ") + f' {arguments} "}}"'
        ),
    )
    return writer.grammar(f'"[" {writer.repeated(call, quoted(", "))} "]"')


def mistral(schemas: Schemas, writer: GrammarWriter) -> str:
    """Write the grammar of Mistral's old list or new `NAME[ARGS]{…}`."""
    arguments = {name: writer.arguments(schema) for name, schema in schemas.items()}
    old_call = _json_call("name", "arguments")
    old = writer.any_of([old_call(name, rule) for name, rule in arguments.items()])
    args, again = writer.marker("[ARGS]"), writer.marker("[TOOL_CALLS]")
    new = writer.any_of([f"{quoted(name)} {args} {rule}" for name, rule in arguments.items()])
    as_list = writer.rule(f'" "? "[" {writer.repeated(old, quoted(", "))} "]"')
    return writer.grammar(writer.any_of([as_list, writer.repeated(new, again)]))


def harmony(schemas: Schemas, writer: GrammarWriter) -> str:
    """Write the grammar of gpt-oss's `NAME <|constrain|>json<|message|>{…}`."""
    channel, constrain = writer.marker("<|channel|>commentary"), writer.marker("<|constrain|>")
    head = f'({channel})? (" "? {constrain} "json" | " json")? {writer.marker("<|message|>")}'
    call = _calls(schemas, writer, lambda name, arguments: f"{quoted(name)} {head} {arguments}")
    return writer.grammar(call)


def kimi(schemas: Schemas, writer: GrammarWriter) -> str:
    """Write the grammar of Kimi's `functions.NAME:0<|tool_call_argument_begin|>{…}`."""
    number = writer.rule(r"/[0-9]{1,3}/")
    begin, end = writer.marker("<|tool_call_begin|>"), writer.marker("<|tool_call_end|>")
    middle = writer.marker("<|tool_call_argument_begin|>")
    call = _calls(
        schemas,
        writer,
        lambda name, arguments: (
            f"{begin} {quoted(f'functions.{name}:')} {number} {middle} {arguments} {end}"
        ),
    )
    return writer.grammar(writer.repeated(call))


def deepseek(schemas: Schemas, writer: GrammarWriter) -> str:
    """Write the grammar of DeepSeek's calls, of V3 and R1 or of V3.1."""
    begin, end = writer.marker("<｜tool▁call▁begin｜>"), writer.marker("<｜tool▁call▁end｜>")
    middle = writer.marker("<｜tool▁sep｜>")

    def call(name: str, arguments: str) -> str:
        old = rf'"function" {middle} {quoted(name)} "\n```json\n" {arguments} "\n```"'
        return f"{begin} ({old} | {quoted(name)} {middle} {arguments}) {end}"

    return writer.grammar(writer.repeated(_calls(schemas, writer, call), r'"\n"?'))


def functionary(schemas: Schemas, writer: GrammarWriter) -> str:
    """Write the grammar of the rest of `<function=NAME>{…}</function>`."""
    call = _calls(schemas, writer, lambda name, arguments: f"{quoted(name + '>')} {arguments}")
    return writer.grammar(call)


@dataclass(frozen=True)
class Tags:
    """How a family writes calls in tags; `NAME` and `KEY` stand for the names."""

    call: str
    end_of_call: str
    parameter: str
    end_of_parameter: str
    line_break: str = ""
    """A line break that may stand between the tags, and around values."""
    breaks_values: bool = True
    """Whether it may stand around values."""
    is_repeated: bool = True
    """Whether a block may have several calls."""

    def __call__(self, schemas: Schemas, writer: GrammarWriter) -> str:
        """Write the grammar."""
        call = writer.any_of([self._call(name, schema, writer) for name, schema in schemas.items()])
        between = f"{quoted(self.line_break)}?" if self.line_break else ""
        calls = writer.repeated(call, between) if self.is_repeated else call
        return writer.grammar(f"{between} {calls} {between}")

    def _call(self, name: str, schema: Mapping[str, Any], writer: GrammarWriter) -> str:
        between = f"{quoted(self.line_break)}?" if self.line_break else ""
        required = schema.get("required", ())
        parameters = []
        for key, each in schema.get("properties", {}).items():
            one = writer.rule(
                f"{_marked(self.parameter.replace('KEY', key), writer)} "
                f"{self._value(_with_definitions(each, schema), writer)} {between}"
            )
            parameters.append(one if key in required else f"({one})?")
        opening = _marked(self.call.replace("NAME", name), writer)
        return f"{opening} {between} {' '.join(parameters)} {_marked(self.end_of_call, writer)}"

    def _value(self, schema: Any, writer: GrammarWriter) -> str:
        """Return the expression of a value and the tag that ends it."""
        end = _marked(self.end_of_parameter, writer)
        around = f"{quoted(self.line_break)}?" if self.line_break and self.breaks_values else ""
        options = schema.get("enum") if isinstance(schema, Mapping) else None
        if options and all(isinstance(each, str) for each in options):
            return f"{around} ({' | '.join(map(quoted, options))}) {around} {end}"
        if not _is_text(schema):
            return f"{around} {writer.json(schema)} {around} {end}"
        limit = min(MAX_TEXT, schema.get("maxLength", MAX_TEXT))
        shortest = schema.get("minLength", 0)
        characters = f"/(?s:.{{{shortest},{max(limit, shortest)}}})/"
        if "<[" in end:  # a text has no control tokens
            return f"{writer.rule(characters)} {end}"
        return writer.rule(characters, f"[suffix={quoted(self.end_of_parameter)}]")


FUNCTION_TAGS = Tags("<function=NAME>", "</function>", "<parameter=KEY>", "</parameter>", "\n")
INVOKE_TAGS = Tags(
    '<invoke name="NAME">', "</invoke>", '<parameter name="KEY">', "</parameter>", "\n"
)
ARGUMENT_TAGS = Tags(
    "NAME", "", "<arg_key>KEY</arg_key>\n<arg_value>", "</arg_value>", "\n", False, False
)


def dsml(schemas: Schemas, writer: GrammarWriter) -> str:
    """Write the grammar of DeepSeek's tags, which say whether a parameter is a text."""
    call = writer.any_of([_dsml_call(name, schema, writer) for name, schema in schemas.items()])
    return writer.grammar(
        rf'"\n"? {writer.repeated(call, chr(34) + chr(92) + "n" + chr(34))} "\n"?'
    )


def _dsml_call(name: str, schema: Mapping[str, Any], writer: GrammarWriter) -> str:
    mark = "｜DSML｜"
    parameters = []
    for key, each in schema.get("properties", {}).items():
        kind = "true" if _is_text(each) else "false"
        tags = Tags("", "", f'<{mark}parameter name="KEY" string="{kind}">', f"</{mark}parameter>")
        opening = _marked(tags.parameter.replace("KEY", key), writer)
        value = tags._value(_with_definitions(each, schema), writer)
        one = writer.rule(rf'{opening} {value} "\n"')
        parameters.append(one if key in schema.get("required", ()) else f"({one})?")
    opening = _marked(f'<{mark}invoke name="{name}">', writer)
    return rf'{opening} "\n" {" ".join(parameters)} {_marked(f"</{mark}invoke>", writer)}'


@dataclass(frozen=True)
class Literals:
    """How a family writes values other than as JSON."""

    writer: GrammarWriter
    root: Mapping[str, Any]
    """The schema that holds the definitions."""
    words: Mapping[Any, str]
    """How true, false and null are written."""
    quote: str = ""
    """A Lark expression of the marker around texts and keys; empty for texts as in JSON."""
    comma: str = ", "
    colon: str = ": "

    def value(self, schema: Any, depth: int = 0) -> str:
        """Return the expression of a value that fits a schema, as far as types and keys go."""
        values = self._resolved(schema)
        if depth > _MAX_DEPTH:
            raise UnwritableSchema("it is nested too deeply or refers to itself")
        options = values.get("anyOf") or values.get("oneOf")
        if options:
            return self.writer.any_of([self.value(each, depth + 1) for each in options])
        if "enum" in values or "const" in values:
            constants = values.get("enum", [values.get("const")])
            return self.writer.any_of([self._constant(each) for each in constants])
        types = values.get("type", list(_ALL_TYPES) if depth < 2 else ["string"])
        types = [types] if isinstance(types, str) else types
        return self.writer.any_of([self._of_type(name, values, depth) for name in types])

    def entries(self, schema: Mapping[str, Any], depth: int = 0) -> str:
        """Return the expression of the entries of an object, without its brackets."""
        properties = schema.get("properties", {})
        required = schema.get("required", ())
        first, rest = "", ""  # the entries from here on, where none or some came before
        for key, each in reversed(properties.items()):
            entry = self.writer.rule(f"{self._key(key, depth)} {self.value(each, depth + 1)}")
            comma = quoted(self.comma)
            whole, later = f"{entry} {rest}", f"{comma} {entry} {rest}"
            if key not in required:
                whole = f"({whole} | {first})" if first else f"({whole})?"
                later = f"({later} | {rest})" if rest else f"({later})?"
            first, rest = self.writer.rule(whole), self.writer.rule(later)
        return first

    def _key(self, key: str, depth: int) -> str:
        if not self.quote and depth == 0:
            return f'{quoted(key)} "="'  # an argument of a Python call
        return quoted((key if self.quote else json.dumps(key)) + self.colon)

    def _of_type(self, name: str, schema: Mapping[str, Any], depth: int) -> str:
        if name in ("integer", "number"):
            kept = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
            return self.writer.json(
                {"type": name, **{key: schema[key] for key in kept if key in schema}}
            )
        if name == "boolean":
            return f"({quoted(self.words[True])} | {quoted(self.words[False])})"
        if name == "null":
            return quoted(self.words[None])
        if name == "string":
            if not self.quote:
                return self.writer.json({**schema, "type": "string"})
            limit = max(schema.get("minLength", 0), schema.get("maxLength", MAX_TEXT))
            text = self.writer.rule(f"/(?s:.{{{schema.get('minLength', 0)},{limit}}})/")
            return f"{self.quote} {text} {self.quote}"
        if name == "array":
            item = self.value(schema.get("items", {"type": "string"}), depth + 1)
            most = max(schema.get("maxItems", MAX_ITEMS), 1) - 1
            return f'"[" ({item} ({quoted(self.comma)} {item}){{0,{most}}})? "]"'
        return f'"{{" {self.entries(schema, depth + 1)} "}}"'

    def _constant(self, value: Any) -> str:
        if value is None or isinstance(value, bool):
            return quoted(self.words[value])
        if isinstance(value, str):
            return f"{self.quote} {quoted(value if self.quote else json.dumps(value))} {self.quote}"
        return quoted(json.dumps(value))

    def _resolved(self, schema: Any) -> Mapping[str, Any]:
        """Follow a reference to a definition."""
        values = schema if isinstance(schema, Mapping) else {}
        path = values.get("$ref")
        if path is None:
            return values
        found: Any = self.root
        for step in str(path).removeprefix("#/").split("/"):
            found = found.get(step) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping) or "$ref" in found:
            raise UnwritableSchema(f"{path} was not found in it")
        return found


class UnwritableSchema(ValueError):
    """A schema that a family's syntax cannot be bound to."""


_MAX_DEPTH = 8

_ALL_TYPES = ("string", "number", "boolean", "null")
"""Types of a value whose schema names none."""


def python_list(schemas: Schemas, writer: GrammarWriter) -> str:
    """Write the grammar of `[NAME(KEY=VALUE, …), …]`."""
    words = {True: "True", False: "False", None: "None"}
    call = writer.any_of(
        [
            f'{quoted(name + "(")} {Literals(writer, schema, words).entries(schema)} ")"'
            for name, schema in schemas.items()
        ]
    )
    return writer.grammar(f'"[" {writer.repeated(call, quoted(", "))} "]"')


def gemma(schemas: Schemas, writer: GrammarWriter) -> str:
    """Write the grammar of Gemma 4's `call:NAME{KEY:<|"|>TEXT<|"|>,KEY:1}`."""
    words = {True: "true", False: "false", None: "null"}
    quote = writer.marker('<|"|>')
    call = writer.any_of(
        [
            f"{quoted(f'call:{name}' + '{')} "
            f'{Literals(writer, schema, words, quote, ",", ":").entries(schema)} "}}"'
            for name, schema in schemas.items()
        ]
    )
    return writer.grammar(call)


def _marked(text: str, writer: GrammarWriter) -> str:
    return writer.marker(text) if text else ""


def _within_lines(call: str, writer: GrammarWriter) -> str:
    """Return an expression for a call that may stand on a line of its own."""
    return rf'"\n"? {call} "\n"?' if writer.end else call


def _is_text(schema: Any) -> bool:
    """Whether a value is written without quotes."""
    if not isinstance(schema, Mapping):
        return False
    return schema.get("type") == "string" and not {"pattern", "format", "const"} & schema.keys()


def _with_definitions(schema: Any, root: Mapping[str, Any]) -> Any:
    """Return a part of a schema that finds the definitions it refers to."""
    shared = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return {**schema, **shared} if isinstance(schema, Mapping) else schema
