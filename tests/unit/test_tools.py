"""A function with type hints and a docstring is a tool."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

from chatlm import Passage, Tool, ToolCall, ToolCancelled, ToolContext, ToolOutput, UsageError, tool
from chatlm.cli.ask_tools import ask_for_tool
from chatlm.testing import ScriptedToolContext, run_tool
from chatlm.types.events import ToolQuestion
from chatlm.types.tools import parse_arguments


class Unit(Enum):
    KM = "km"
    MILE = "mile"


@tool(permission="allow", timeout=10, read_only=True)
def convert(value: float, unit: Unit, digits: int | None = None) -> str:
    """Convert a distance to metres.

    Use it for every distance.

    Args:
        value: how many, such as 3.5, of
            the unit.
        unit: the unit.

    Returns:
        metres.
    """
    return f"{value * {Unit.KM: 1000, Unit.MILE: 1609.344}[unit]:.{digits or 0}f} m"


@dataclass
class Place:
    town: str
    street: str = ""


@tool
def visit(places: list[Place], how: Literal["car", "foot"] = "foot") -> dict[str, Any]:
    """Plan a visit."""
    return {"towns": [place.town for place in places], "how": how}


@tool
def order(what: str, context: ToolContext) -> str:
    """Order something."""
    context.progress("asking", 0.5)
    answer = context.ask(f"Really order {what}?", ["yes", "no"])
    context.check_cancelled()
    return answer


def test_name_and_description_are_the_functions() -> None:
    assert convert.name == "convert"
    assert convert.description == "Convert a distance to metres.\n\nUse it for every distance."
    assert (convert.permission, convert.timeout, convert.read_only) == ("allow", 10, True)


def test_the_schema_is_made_of_the_type_hints() -> None:
    assert dict(convert.parameters) == {
        "$defs": {"Unit": {"enum": ["km", "mile"], "type": "string"}},
        "additionalProperties": False,
        "properties": {
            "value": {"description": "how many, such as 3.5, of the unit.", "type": "number"},
            "unit": {"$ref": "#/$defs/Unit", "description": "the unit."},
            "digits": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
        "required": ["value", "unit"],
        "type": "object",
    }
    convert.check()
    json.dumps(convert.definition.to_dict())


def test_the_context_is_no_argument_of_the_model() -> None:
    assert list(order.parameters["properties"]) == ["what"]


def test_arguments_are_converted_to_the_hints() -> None:
    assert run_tool(convert, {"value": "2", "unit": "km"}) == ToolOutput("2000 m")
    output = run_tool(visit, {"places": [{"town": "Ulm"}]})
    assert json.loads(output.text) == {"towns": ["Ulm"], "how": "foot"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"value": 1}, "argument unit: Field required"),
        ({"value": "much", "unit": "km"}, "argument value: Input should be a valid number"),
        ({"value": 1, "unit": "km", "colour": 1}, "argument colour: Extra inputs"),
        ({"value": 1, "unit": "yard"}, "argument unit: Input should be 'km' or 'mile'"),
    ],
)
def test_wrong_arguments_are_a_result_for_the_model(
    arguments: dict[str, Any], problem: str
) -> None:
    output = run_tool(convert, arguments)
    assert output.is_error
    assert output.text.startswith(problem)


def test_an_error_of_the_function_is_a_result_for_the_model() -> None:
    @tool
    def fail(kind: str) -> str:
        """Fail."""
        raise UsageError("No such kind", hint="Use another.") if kind == "own" else KeyError(kind)

    assert run_tool(fail, {"kind": "own"}) == ToolOutput("No such kind\nUse another.", True)
    assert run_tool(fail, {"kind": "x"}) == ToolOutput("KeyError: 'x'", True)


def test_a_tool_asks_the_user_and_tells_what_it_does() -> None:
    context = ScriptedToolContext("yes")
    assert run_tool(order, {"what": "tea"}, context).text == "yes"
    assert context.questions == ["Really order tea?"]
    assert context.reported == [("asking", 0.5)]


def test_nobody_answering_stops_the_tool() -> None:
    with pytest.raises(ToolCancelled):
        run_tool(order, {"what": "tea"})
    with pytest.raises(ToolCancelled, match="stopped"):
        run_tool(order, {"what": "tea"}, ScriptedToolContext("yes", cancel_after=1))


def test_a_tool_with_a_schema_from_elsewhere_is_checked_against_it() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    double = Tool("double", "Double it.", schema, lambda values, _: str(2 * values["n"]))
    assert run_tool(double, {"n": 4}).text == "8"
    assert run_tool(double, {"n": "4"}) == ToolOutput(
        "argument n: '4' is not of type 'integer'", True
    )
    assert run_tool(double, {}) == ToolOutput("'n' is a required property", True)


def test_the_output_is_marked_where_the_tool_reads_from_outside() -> None:
    page = ToolOutput("text", source="https://a.example", passages=(Passage("a", "b", 1.0),))

    @tool(untrusted_output=True)
    def fetch() -> ToolOutput:
        """Fetch."""
        return page

    output = run_tool(fetch)
    assert (output.untrusted, output.source, output.passages) == (True, page.source, page.passages)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"name": "a b"}, "letters"),
        ({"permission": "maybe"}, "permission"),
        ({"timeout": 0}, "timeout"),
        ({"group": "a b"}, "group"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):

        @tool(**options)
        def fine() -> str:
            """Do it."""
            return ""


def test_a_function_without_a_docstring_is_refused() -> None:
    with pytest.raises(ValueError, match="description"):

        @tool
        def silent() -> str:
            return ""


def test_the_type_of_the_context_need_not_be_imported() -> None:
    @tool
    def told(what: str, context: NotImported) -> str:  # type: ignore[name-defined]  # noqa: F821
        """Do it."""
        return what

    assert list(told.parameters["properties"]) == ["what"]


def test_a_type_hint_with_an_unknown_name_is_explained() -> None:
    @tool
    def odd(what: NotImported) -> str:  # type: ignore[name-defined]  # noqa: F821
        """Do it."""
        return str(what)

    with pytest.raises(ValueError, match=r"odd cannot be a tool: a type hint .* 'NotImported'"):
        list(odd.parameters)


def test_a_function_whose_arguments_have_no_hints_is_refused_when_it_is_checked() -> None:
    @tool
    def vague(what) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
        """Do it."""
        return str(what)

    with pytest.raises(ValueError, match="what has no type hint"):
        vague.check()


@pytest.mark.parametrize("schema", [{"type": "string"}, {"type": "objekt"}])
def test_a_schema_that_is_none_of_an_object_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the tool x"):
        Tool("x", "X.", schema, lambda values, context: "").check()


def test_arguments_are_a_json_object() -> None:
    assert parse_arguments(' {"a": 1}') == {"a": 1}
    assert parse_arguments("") == {}
    for wrong in ("[]", "{", "1", "[" * 100_000):
        with pytest.raises(UsageError, match="the arguments"):
            parse_arguments(wrong)


def test_decorating_imports_no_pydantic() -> None:
    code = (
        "import sys\nfrom chatlm import tool\n"
        "@tool\ndef a(b: int) -> str:\n    'A.'\n    return ''\n"
        "assert 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("choices", "typed", "answer"),
    [((), "\n", ""), ((), "tea\n", "tea"), (("tea", "coffee"), "\nmilk\ncoffee\n", "coffee")],
)
def test_a_question_on_a_terminal(choices: tuple[str, ...], typed: str, answer: str) -> None:
    event = ToolQuestion(ToolCall("1", "prefer", "{}"), "What?\x1b[2J", choices)

    @click.command()
    def ask() -> None:
        ask_for_tool(event)

    shown = CliRunner().invoke(ask, input=typed).output
    assert event.answer == answer
    assert "\x1b" not in shown
