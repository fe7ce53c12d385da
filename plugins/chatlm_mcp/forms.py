"""What a server asks of the user (elicitation), as questions of the tool that it runs for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from chatlm import escape_controls, one_line
from chatlm_mcp.limits import MAX_FIELDS, MAX_QUESTION

Ask = Callable[[str, Sequence[str]], str]
"""`(question, choices) -> answer`; raises `ToolCancelled` if the user does not answer."""

Value = str | int | float | bool | list[str]

ANSWER, DECLINE, OPENED = "answer", "decline", "I opened it"
"""Choices of chatlm's own."""

LEAVE_OUT = "leave it out"

_TRIES = 3
"""How often a field is asked about whose answers are not valid."""

_CHECKED = (
    *("type", "minLength", "maxLength", "format", "minimum", "maximum"),
    *("minItems", "maxItems"),
)
"""Keywords that an answer must fit; never `pattern`, whose search can take for ever."""


class Declined(Exception):
    """The user does not want to answer."""


@dataclass(frozen=True)
class Field:
    """One value that a server asks for."""

    name: str
    title: str
    description: str
    kind: str
    """`string`, `number`, `integer`, `boolean` or `array`, which is a list of choices."""
    choices: tuple[tuple[str, Value], ...]
    """Labels, each different from the others, and what they stand for; empty for free text."""
    required: bool
    default: Value | None
    rules: Mapping[str, Any]
    """JSON schema that the value must fit."""


def ask_form(server: str, message: str, schema: Mapping[str, Any], ask: Ask) -> dict[str, Value]:
    """Ask the user for the values of a form, first whether to answer at all.

    Args:
        server: its name.
        message: what it says.
        schema: an object whose properties are the fields.
        ask: asks one question.

    Raises:
        Declined: the user does not want to answer.
        ToolCancelled: the user did not answer.
        ValueError: the form cannot be shown; the message says why.
    """
    fields = read_fields(schema)
    head = f"The MCP server {server} asks:\n{_shorten(message)}"
    if len(fields) == 1 and fields[0].choices and fields[0].kind != "array":
        (field,) = fields
        labels = [label for label, _ in field.choices]
        decline = _unlike(DECLINE, labels)
        shown = "\n".join(filter(None, (head, _about(field))))
        answer = ask(shown, (*labels, decline))
        if answer == decline:
            raise Declined
        return {field.name: dict(field.choices)[answer]}
    wanted = ", ".join(field.title for field in fields)
    about = f"\nIt wants: {wanted}" if fields else ""
    if ask(f"{head}{about}\nYour answers are sent to it.", (ANSWER, DECLINE)) != ANSWER:
        raise Declined
    values = {field.name: _ask_field(field, ask) for field in fields}
    return {name: value for name, value in values.items() if value is not None}


def ask_to_open(server: str, message: str, url: str, ask: Ask) -> None:
    """Ask the user to open a page of a server; chatlm does not open it.

    Raises:
        Declined: the user does not want to.
        ToolCancelled: the user did not answer.
        ValueError: it is no address of a web page.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the address is not that of a web page")
    if not url.isascii() or len(url) > MAX_QUESTION or one_line(url, MAX_QUESTION) != url:
        raise ValueError("the address is too long or has characters that are not allowed")
    text = (
        f"The MCP server {server} asks you to open a page of {parts.hostname}:\n"
        f"{_shorten(message)}\n\n{url}\n\nOpen it in your browser if you trust it."
    )
    if ask(text, (OPENED, DECLINE)) != OPENED:
        raise Declined


def read_fields(schema: Mapping[str, Any]) -> list[Field]:
    """Return the fields of a form.

    Raises:
        ValueError: there are too many, or one is of a kind that forms do not have.
    """
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        raise ValueError("its fields are no JSON object")
    if len(properties) > MAX_FIELDS:
        raise ValueError(f"it has {len(properties)} fields, more than {MAX_FIELDS}")
    required = schema.get("required") or ()
    return [_read_field(str(name), about, name in required) for name, about in properties.items()]


def _read_field(name: str, about: Any, required: bool) -> Field:
    if not isinstance(about, Mapping):
        raise ValueError(f"the field {one_line(name, 40)} is no JSON object")
    kind = about.get("type")
    if kind not in ("string", "number", "integer", "boolean", "array"):
        raise ValueError(f"the field {one_line(name, 40)} is of the type {one_line(str(kind), 30)}")
    source = about.get("items") if kind == "array" else about
    if not isinstance(source, Mapping):
        raise ValueError(f"the field {one_line(name, 40)} does not say what its list has")
    choices: list[tuple[str, Value]] = []
    if kind == "boolean":
        choices = [("yes", True), ("no", False)]
    elif kind in ("string", "array"):
        choices = _choices(source)
    if kind == "array" and not choices:
        raise ValueError(f"the field {one_line(name, 40)} is a list of anything")
    default = about.get("default")
    return Field(
        name=name,
        title=one_line(str(about.get("title") or name), 60),
        description=_shorten(str(about.get("description") or "")),
        kind=kind,
        choices=tuple(choices),
        required=required,
        default=default if isinstance(default, str | int | float | list) else None,
        rules={key: about[key] for key in _CHECKED if key in about},
    )


def _choices(source: Mapping[str, Any]) -> list[tuple[str, Value]]:
    """Return the choices of a field, whose labels are made different from each other."""
    titled = source.get("oneOf") or source.get("anyOf")
    pairs: list[tuple[str, str]] = []
    if isinstance(titled, list):
        entries = [each for each in titled if isinstance(each, Mapping)]
        pairs = [(str(e.get("title") or e.get("const")), str(e.get("const"))) for e in entries]
    elif isinstance(plain := source.get("enum"), list):
        names = source.get("enumNames")
        names = names if isinstance(names, list) and len(names) == len(plain) else plain
        pairs = [(str(label), str(value)) for label, value in zip(names, plain, strict=True)]
    found: list[tuple[str, Value]] = []
    for label, value in pairs:
        found.append((_unlike(one_line(label, 60), [each for each, _ in found]), value))
    return found


def _ask_field(field: Field, ask: Ask) -> Value | None:
    """Ask for one value, again if it is not valid; None if it is left out."""
    question = "\n".join(filter(None, (field.title, _about(field))))
    if field.choices and field.kind != "array":
        labels = [label for label, _ in field.choices]
        leave = () if field.required else (_unlike(LEAVE_OUT, labels),)
        return dict(field.choices).get(ask(question, (*labels, *leave)))
    problem = ""
    for _ in range(_TRIES):
        typed = ask(f"{question}\n{problem}".rstrip("\n"), ()).strip()
        if not typed and field.default is not None:
            return field.default
        if not typed and not field.required:
            return None
        try:
            return _parse(field, typed)
        except ValueError as error:
            problem = str(error)
    raise Declined


def _about(field: Field) -> str:
    """Return what the user should know of a field."""
    facts = [field.description]
    if field.kind == "array":
        labels = ", ".join(label for label, _ in field.choices)
        facts.append(f"Some of these, with commas between: {labels}.")
    if field.kind in ("number", "integer"):
        facts.append("A whole number." if field.kind == "integer" else "A number.")
    if field.default and (not field.choices or field.kind == "array"):
        facts.append(f"Empty for {one_line(str(field.default), 60)}.")
    elif not field.required and not field.choices:
        facts.append("May be left empty.")
    return " ".join(filter(None, facts))


def _parse(field: Field, typed: str) -> Value:
    """Return the value of an answer.

    Raises:
        ValueError: it is not valid; the message says why.
    """
    value: Value = typed
    if field.kind == "array":
        by_label = {label.casefold(): str(value) for label, value in field.choices}
        words = [word.strip() for word in typed.split(",") if word.strip()]
        if unknown := [word for word in words if word.casefold() not in by_label]:
            raise ValueError(f"{one_line(unknown[0], 60)} is none of them.")
        value = [by_label[word.casefold()] for word in words]
    elif field.kind == "integer":
        value = _number(int, typed, "a whole number")
    elif field.kind == "number":
        value = _number(float, typed, "a number")
    _check(value, field.rules)
    return value


def _number(kind: type[int] | type[float], typed: str, what: str) -> int | float:
    try:
        number = kind(typed)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{one_line(typed, 60)} is not {what}.")
    return number


def _check(value: Value, rules: Mapping[str, Any]) -> None:
    from jsonschema import Draft202012Validator, FormatChecker, exceptions

    validator = Draft202012Validator(dict(rules), format_checker=FormatChecker())
    try:
        problem = exceptions.best_match(validator.iter_errors(value))
    except Exception as error:  # the server's rules may be anything
        raise ValueError(f"it cannot be checked: {one_line(str(error), 100)}") from error
    if problem is not None:
        raise ValueError(f"{one_line(problem.message, 200)}.")


def _unlike(label: str, others: Sequence[str]) -> str:
    """Return a label that none of the others is."""
    found, number = label, 2
    while found in others:
        found, number = f"{label} ({number})", number + 1
    return found


def _shorten(text: str) -> str:
    text = escape_controls(text).strip()
    return text if len(text) <= MAX_QUESTION else f"{text[: MAX_QUESTION - 1]}…"
