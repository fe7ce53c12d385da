"""Tools in the requests of a file, in the form of OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatlm.errors import UsageError
from chatlm.text import one_line
from chatlm.types.parts import ToolCall, ToolResult
from chatlm.types.replies import ReplyStep
from chatlm.types.requests import TOOL_CHOICES, ToolDefinition
from chatlm.types.schemas import check_schema

TOOL_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
"""Fields that say which tools may be called."""

_FUNCTION_FIELDS = {"name", "description", "parameters", "strict"}


def parse_tools(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tools, the choice and whether several may be called, as `Request` names them.

    Args:
        values: the fields of a request.

    Raises:
        UsageError: a field is invalid; it is named.
    """
    given = values.get("tools", [])
    if not isinstance(given, list):
        raise UsageError("tools must be a list")
    tools = tuple(_parse_tool(tool, f"tools[{number}]") for number, tool in enumerate(given))
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise UsageError("two tools have the same name")
    choice = _parse_choice(values.get("tool_choice", "auto"))
    if choice not in (*TOOL_CHOICES, *names):
        raise UsageError(f"tool_choice: no tool is called {one_line(choice, 60)}")
    if choice == "required" and not tools:
        raise UsageError("tool_choice requires tools")
    parallel = values.get("parallel_tool_calls", True)
    if not isinstance(parallel, bool):
        raise UsageError("parallel_tool_calls must be true or false")
    return {"tools": tools, "tool_choice": choice, "parallel_tool_calls": parallel}


def _parse_tool(tool: Any, path: str) -> ToolDefinition:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.keys() != {"type", "function"}:
        raise UsageError(f'{path} must be {{"type": "function", "function": {{…}}}}')
    if tool["type"] != "function":
        raise UsageError(f"{path}.type must be function")
    for name in function.keys() - _FUNCTION_FIELDS:
        raise UsageError(f"{path}.function.{one_line(name, 60)} is not supported")
    name, parameters = function.get("name"), function.get("parameters") or {"type": "object"}
    description = function.get("description") or ""
    if not isinstance(name, str) or not name.strip() or not isinstance(description, str):
        raise UsageError(f"{path}.function needs a name, and its description must be a text")
    if not isinstance(parameters, dict):
        raise UsageError(f"{path}.function.parameters must be an object")
    try:
        check_schema(parameters)
    except UsageError as error:
        raise UsageError(f"{path}.function.parameters: {error.message}") from None
    return ToolDefinition(name, description, parameters)


def _parse_choice(value: Any) -> str:
    if isinstance(value, str) and value in TOOL_CHOICES:
        return value
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise UsageError("tool_choice must be auto, none, required, or a function")
    return name


def check_results(steps: Sequence[ReplyStep]) -> None:
    """Refuse steps to a reply of which a call has no result.

    Raises:
        UsageError: there is one; it is named.
    """
    for step in steps:
        results = {part.call_id for part in step.parts if isinstance(part, ToolResult)}
        for part in step.parts:
            if isinstance(part, ToolCall) and part.id not in results:
                call_id = one_line(part.id, 60)
                raise UsageError(f"messages: the result of the tool call {call_id!r} is missing")
