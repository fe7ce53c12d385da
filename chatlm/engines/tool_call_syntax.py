"""Read the tool calls that a model wrote, in the syntax of its family, or write them again.

Each reader takes the text between the markers of a block of calls. A text that is not entirely
well formed gives no call at all.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class Malformed(ValueError):
    """A text that is no tool call."""


class Unfinished(Malformed):
    """A text that breaks off inside a value, so that an end marker in it is part of the value."""


@dataclass(frozen=True)
class WrittenCall:
    """A tool call as a model wrote it."""

    name: str
    arguments: str
    """A JSON object."""


Schemas = Mapping[str, Mapping[str, Any]]
"""Name of a tool -> JSON schema of its parameters."""

ReadCalls = Callable[[str, Schemas], list[WrittenCall]]
"""`(text, schemas) -> calls`, at least one; raises `Malformed`."""


WriteCalls = Callable[[Sequence[WrittenCall]], list[str]]
"""`(calls) -> texts`: what stands between each pair of markers."""


def read_json(text: str, schemas: Schemas) -> list[WrittenCall]:
    """Read `{"name": …, "arguments": {…}}`: one, several after each other, or a list."""
    calls: list[WrittenCall] = []
    for value in _json_values(text):
        for entry in value if isinstance(value, list) else [value]:
            calls.append(_call_of(entry))
    return _at_least_one(calls)


_NAME_KEYS = ("name", "tool_name")
_ARGUMENT_KEYS = ("arguments", "parameters")
_OTHER_KEYS = {"id", "type", "tool_call_id", "function"}


def _call_of(entry: Any) -> WrittenCall:
    if not isinstance(entry, dict) or not entry.keys() <= {
        *_NAME_KEYS,
        *_ARGUMENT_KEYS,
        *_OTHER_KEYS,
    }:
        raise Malformed("not an object with a name and arguments")
    function = entry.get("function")
    if isinstance(function, dict):
        return _call_of(function)
    name = next((entry[key] for key in _NAME_KEYS if key in entry), function)
    arguments: Any = next((entry[key] for key in _ARGUMENT_KEYS if key in entry), {})
    if isinstance(arguments, str):
        arguments = _only_json(arguments)
    return _make_call(name, arguments)


def read_named_objects(text: str, schemas: Schemas) -> list[WrittenCall]:
    """Read a list of `{"NAME": {…}}`."""
    entries = _only_json(text)
    if not isinstance(entries, list):
        raise Malformed("not a list")
    calls = []
    for entry in entries:
        if not isinstance(entry, dict) or len(entry) != 1:
            raise Malformed("not an object with one key")
        calls += [_make_call(name, arguments) for name, arguments in entry.items()]
    return _at_least_one(calls)


def read_function_tags(text: str, schemas: Schemas) -> list[WrittenCall]:
    """Read `<function=NAME><parameter=KEY>VALUE</parameter>…</function>`, one or several."""
    return _read_tags(
        text,
        schemas,
        call=re.compile(r"\s*<function=([^<>\s]+)>"),
        parameter=re.compile(r"\s*<parameter=([^<>]+)>"),
        end_of_parameter="</parameter>",
        end_of_call=re.compile(r"\s*</function>\s*"),
    )


def read_invoke_tags(text: str, schemas: Schemas) -> list[WrittenCall]:
    """Read `<invoke name="NAME"><parameter name="KEY">VALUE</parameter>…</invoke>`."""
    return _read_invokes(text, schemas, "")


def read_dsml(text: str, schemas: Schemas) -> list[WrittenCall]:
    """Read DeepSeek's `<｜DSML｜invoke …>`, whose parameters say whether they are strings."""
    return _read_invokes(text, schemas, "｜DSML｜")


def _read_invokes(text: str, schemas: Schemas, prefix: str) -> list[WrittenCall]:
    return _read_tags(
        text,
        schemas,
        call=re.compile(rf'\s*<{prefix}invoke name="([^"<>]+)">'),
        parameter=re.compile(
            rf'\s*<{prefix}parameter name="([^"<>]+)"(?: string="(?P<string>true|false)")?>'
        ),
        end_of_parameter=f"</{prefix}parameter>",
        end_of_call=re.compile(rf"\s*</{prefix}invoke>\s*"),
    )


def _read_tags(
    text: str,
    schemas: Schemas,
    *,
    call: re.Pattern[str],
    parameter: re.Pattern[str],
    end_of_parameter: str,
    end_of_call: re.Pattern[str],
) -> list[WrittenCall]:
    calls: list[WrittenCall] = []
    place = 0
    while place < len(text.rstrip()):
        head = call.match(text, place)
        if head is None:
            raise Malformed("no call begins here")
        name, place = head[1], head.end()
        arguments: dict[str, Any] = {}
        while (opening := parameter.match(text, place)) is not None:
            end = text.find(end_of_parameter, opening.end())
            if end < 0:
                raise Unfinished("a parameter does not end")
            value = text[opening.end() : end]
            kind = opening.groupdict().get("string")
            arguments[opening[1]] = _typed(
                _without_line_breaks(value),
                {"type": "string"} if kind == "true" else _schema_of(schemas, name, opening[1]),
            )
            place = end + len(end_of_parameter)
        tail = end_of_call.match(text, place)
        if tail is None:
            raise Malformed("the call does not end")
        place = tail.end()
        calls.append(_make_call(name, arguments))
    return _at_least_one(calls)


_GLM_ARGUMENT = re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>", re.DOTALL)


def read_argument_tags(text: str, schemas: Schemas) -> list[WrittenCall]:
    """Read GLM's `NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>…`."""
    name, place = text, len(text)
    if "<arg_key>" in text:
        place = text.index("<arg_key>")
        name = text[:place]
    name = name.strip()
    arguments: dict[str, Any] = {}
    while (opening := _GLM_ARGUMENT.match(text, place)) is not None:
        end = text.find("</arg_value>", opening.end())
        if end < 0:
            raise Unfinished("an argument does not end")
        key = opening[1].strip()
        arguments[key] = _typed(text[opening.end() : end], _schema_of(schemas, name, key))
        place = end + len("</arg_value>")
    if text[place:].strip() or not re.fullmatch(r"[^\s<>{}]+", name):
        raise Malformed("not a name with arguments")
    return [_make_call(name, arguments)]


def read_mistral(text: str, schemas: Schemas) -> list[WrittenCall]:
    """Read Mistral's old `[{"name": …, "arguments": …}]` or new `NAME[ARGS]{…}`."""
    calls: list[WrittenCall] = []
    for piece in text.split("[TOOL_CALLS]"):
        if piece.lstrip().startswith(("[", "{")):
            calls += read_json(piece, schemas)
            continue
        written = re.fullmatch(
            r"\s*([^\s\[\]{}]+)(?:\[CALL_ID\][^\[\]{}]*)?\[ARGS\](.*)", piece, re.S
        )
        if written is None:
            raise Malformed("no name with arguments")
        calls.append(_make_call(written[1], _only_json(written[2])))
    return _at_least_one(calls)


def read_harmony(text: str, schemas: Schemas) -> list[WrittenCall]:
    """Read the rest of gpt-oss's `to=functions.NAME … <|message|>{…}`."""
    head, found, body = text.partition("<|message|>")
    name = re.match(r"(?:to=functions\.)?([^\s<>]+)", head)
    if not found or name is None:
        raise Malformed("no name with a message")
    return [_make_call(name[1], _only_json(body) if body.strip() else {})]


def read_kimi(text: str, schemas: Schemas) -> list[WrittenCall]:
    """Read Kimi's `functions.NAME:0<|tool_call_argument_begin|>{…}` between its markers."""
    pattern = re.compile(
        r"\s*<\|tool_call_begin\|>\s*(?:functions\.)?([^\s:<>]+)(?::\d+)?\s*"
        r"<\|tool_call_argument_begin\|>(.*?)<\|tool_call_end\|>\s*",
        re.DOTALL,
    )
    return _read_repeated(text, pattern)


def read_deepseek(text: str, schemas: Schemas) -> list[WrittenCall]:
    """Read DeepSeek's calls: of V3 and R1 in a code block, of V3.1 as `NAME<｜tool▁sep｜>{…}`."""
    pattern = re.compile(
        r"\s*<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>([^\s<>]+)\s*```json\s*(.*?)\s*```"
        r"|([^\s<>]+)<｜tool▁sep｜>(.*?))<｜tool▁call▁end｜>\s*",
        re.DOTALL,
    )
    return _read_repeated(text, pattern)


def _read_repeated(text: str, pattern: re.Pattern[str]) -> list[WrittenCall]:
    """Read calls of a pattern whose groups are a name and arguments."""
    calls: list[WrittenCall] = []
    place = 0
    while place < len(text):
        match = pattern.match(text, place)
        if match is None:
            raise Malformed("no call begins here")
        name, arguments = (group for group in match.groups() if group is not None)
        calls.append(_make_call(name, _only_json(arguments)))
        place = match.end()
    return _at_least_one(calls)


def read_functionary(text: str, schemas: Schemas) -> list[WrittenCall]:
    """Read the rest of Llama's `<function=NAME>{…}`."""
    name, found, arguments = text.partition(">")
    if not found:
        raise Malformed("no name")
    return [_make_call(name, _only_json(arguments))]


def read_python(text: str, schemas: Schemas) -> list[WrittenCall]:
    """Read a list of calls as Python writes them, `[NAME(KEY=VALUE, …), …]`, or as JSON."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Malformed("not an expression") from error
    entries = tree.elts if isinstance(tree, ast.List) else [tree]
    written = [entry for entry in entries if isinstance(entry, ast.Call)]
    if len(written) < len(entries):
        return read_json(text, schemas)
    calls: list[WrittenCall] = []
    for entry in written:
        if entry.args or not all(keyword.arg for keyword in entry.keywords):
            raise Malformed("an argument without a name")
        try:
            arguments = {
                str(keyword.arg): ast.literal_eval(keyword.value) for keyword in entry.keywords
            }
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            raise Malformed("an argument that is no literal") from error
        calls.append(_make_call(ast.unparse(entry.func), arguments))
    return _at_least_one(calls)


def read_gemma(text: str, schemas: Schemas) -> list[WrittenCall]:
    """Read Gemma 4's `call:NAME{KEY:<|"|>TEXT<|"|>,KEY:1}`."""
    match = re.match(r"\s*call:([^\s{}]+)(?=\{)", text)
    if match is None:
        raise Malformed("no call begins here")
    arguments, end = _gemma_value(text, match.end())
    if text[end:].strip():
        raise Malformed("something follows the call")
    return [_make_call(match[1], arguments)]


_GEMMA_QUOTE = '<|"|>'
_GEMMA_KEY = re.compile(r'\s*(?:<\|"\|>(.*?)<\|"\|>|([^\s:{}\[\],]+))\s*:', re.DOTALL)
_GEMMA_SCALAR = re.compile(r"[^\s,{}\[\]]+")


def _gemma_value(text: str, place: int) -> tuple[Any, int]:
    """Return the value that starts at a place, and the place after it."""
    place += len(text[place:]) - len(text[place:].lstrip())
    if text.startswith(_GEMMA_QUOTE, place):
        start = place + len(_GEMMA_QUOTE)
        end = text.find(_GEMMA_QUOTE, start)
        if end < 0:
            raise Unfinished("a text does not end")
        return text[start:end], end + len(_GEMMA_QUOTE)
    opening = text[place : place + 1]
    if opening in ("{", "["):
        return _gemma_container(text, place + 1, "}" if opening == "{" else "]")
    scalar = _GEMMA_SCALAR.match(text, place)
    if scalar is None:
        raise Malformed("no value")
    return _only_json(scalar[0]), scalar.end()


def _gemma_container(text: str, place: int, closing: str) -> tuple[Any, int]:
    entries: list[tuple[str, Any]] = []
    while not text[place:].lstrip().startswith(closing):
        key = ""
        if closing == "}":
            named = _GEMMA_KEY.match(text, place)
            if named is None:
                raise Malformed("no key")
            key, place = named[1] if named[1] is not None else named[2], named.end()
        value, place = _gemma_value(text, place)
        entries.append((key, value))
        rest = text[place:].lstrip()
        if rest.startswith(","):
            place = len(text) - len(rest) + 1
        elif not rest.startswith(closing):
            raise Malformed("neither a comma nor an end")
    end = text.index(closing, place) + 1
    return (dict(entries) if closing == "}" else [value for _, value in entries]), end


_TEXT = r'("(?:[^"\\]|\\.)*")'

_JSON_HEAD = (
    rf'\{{\s*(?:"tool_call_id"\s*:\s*"[^"]*"\s*,\s*)?"(?:name|tool_name)"\s*:\s*{_TEXT}'
    r'\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)

HEADS: Mapping[ReadCalls, re.Pattern[str]] = {
    read: re.compile(pattern, re.DOTALL)
    for read, pattern in (
        (read_json, _JSON_HEAD),
        (read_named_objects, rf"\{{\s*{_TEXT}\s*:\s*(?=\{{)"),
        (read_mistral, rf"{_JSON_HEAD}|([^\s\[\]{{}}]+)\[ARGS\]\s*(?=\{{)"),
        (read_harmony, r"^(?:to=functions\.)?([^\s<>]+).*?<\|message\|>\s*(?=\{)"),
        (
            read_kimi,
            r"<\|tool_call_begin\|>\s*(?:functions\.)?([^\s:<>]+)(?::\d+)?\s*"
            r"<\|tool_call_argument_begin\|>\s*(?=\{)",
        ),
        (
            read_deepseek,
            r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>([^\s<>]+)\s*```json"
            r"|([^\s<>]+)<｜tool▁sep｜>)\s*(?=\{)",
        ),
        (read_functionary, r"^([^<>\s]+)>\s*(?=\{)"),
    )
}
"""What precedes the arguments of a call as its grammar allows it, by the reader, where they are
JSON; one group has the name, in quotes or without."""


def write_json(calls: Sequence[WrittenCall]) -> list[str]:
    """Write `{"name": …, "arguments": {…}}` for each call."""
    return [f"\n{_json_of(call)}\n" for call in calls]


def write_json_list(calls: Sequence[WrittenCall]) -> list[str]:
    """Write one list of `{"name": …, "arguments": {…}}`."""
    return [f"[{', '.join(map(_json_of, calls))}]"]


def _json_of(call: WrittenCall) -> str:
    name = json.dumps(call.name, ensure_ascii=False)
    return f'{{"name": {name}, "arguments": {call.arguments}}}'


def write_python(calls: Sequence[WrittenCall]) -> list[str]:
    """Write one list of calls as Python does."""
    return [f"[{', '.join(map(_python_of, calls))}]"]


def _python_of(call: WrittenCall) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in _only_json(call.arguments).items())
    return f"{call.name}({arguments})"


def _json_values(text: str) -> Iterator[Any]:
    """Yield JSON values that follow each other, perhaps with semicolons or commas between."""
    decoder = json.JSONDecoder()
    place = 0
    while rest := text[place:].lstrip(" \t\r\n;,"):
        place = len(text) - len(rest)
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            if str(error).startswith("Unterminated string"):
                raise Unfinished("a string does not end") from error
            raise Malformed("not JSON") from error
        yield value


def _only_json(text: str) -> Any:
    values = list(_json_values(text))
    if len(values) != 1:
        raise Malformed("not one JSON value")
    return values[0]


def _make_call(name: Any, arguments: Any) -> WrittenCall:
    if not isinstance(name, str) or not name.strip() or not isinstance(arguments, dict):
        raise Malformed("no name, or arguments that are no object")
    try:
        written = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        return WrittenCall(name.strip(), without_surrogates(written))
    except (TypeError, ValueError, RecursionError) as error:
        raise Malformed("an argument that JSON cannot express") from error


def without_surrogates(text: str) -> str:
    """Replace what is no character, and could not be sent, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _at_least_one(calls: list[WrittenCall]) -> list[WrittenCall]:
    if not calls:
        raise Malformed("no call")
    return calls


def _without_line_breaks(value: str) -> str:
    """Remove the line breaks that some templates put around a value."""
    return value.removeprefix("\n").removesuffix("\n")


def _schema_of(schemas: Schemas, name: str, key: str) -> Mapping[str, Any] | None:
    properties = schemas.get(name, {}).get("properties", {})
    found = properties.get(key) if isinstance(properties, Mapping) else None
    return found if isinstance(found, Mapping) else None


_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def _typed(text: str, schema: Mapping[str, Any] | None) -> Any:
    """Return a value that was written without quotes, as its schema says.

    A text of an unknown type is JSON if it can be; one that does not fit its type stays a text.
    """
    types = _types_of(schema or {})
    if types == {"string"}:
        return text
    try:
        value = json.loads(text.strip())
    except (ValueError, RecursionError):
        words = {"true": True, "false": False}
        if "boolean" in types and text.strip().lower() in words:  # as Python writes them
            return words[text.strip().lower()]
        return text
    if types and not any(type(value) in _JSON_TYPES.get(name, ()) for name in types):
        return text
    return value


def _types_of(schema: Mapping[str, Any]) -> set[str]:
    named = schema.get("type", [])
    types = {named} if isinstance(named, str) else {each for each in named if isinstance(each, str)}
    for key in ("anyOf", "oneOf"):
        for option in schema.get(key, []):
            types |= _types_of(option) if isinstance(option, Mapping) else set()
    if not types and (options := schema.get("enum")):
        types = {"string"} if all(isinstance(each, str) for each in options) else set()
    return types
