"""Fields that OpenAI's endpoints share: sampling, tools, thinking and output formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatlm import Sampling, Schema, ToolDefinition, one_line
from chatlm_serve.errors import field_error
from chatlm_serve.fields import get_typed, refuse_unknown, unsupported_error, without_nulls
from chatlm_serve.generation_request import (
    check_stop,
    check_tools,
    checked_schema,
    limit_value,
    sampling_value,
    tool_definition,
)

MAX_BIASES = 1024

HINTS = frozenset(
    (
        "metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
        "service_tier", "user",
    )
)  # fmt: skip
"""Fields that say something about a request, but change no reply."""

SAMPLING_FIELDS = tuple(
    name
    for name in Sampling().settings()
    if name not in ("max_tokens", "stop", "schema", "grammar", "thinking", "method")
)
"""Fields that have the same name in chatlm's sampling."""

EFFORTS = {"none": "off", "minimal": "low", "low": "low", "medium": "medium", "high": "high"}
"""Values of `reasoning_effort`, with those of chatlm's `thinking`."""


def sampling_values(fields: Mapping[str, Any], limits: tuple[str, ...]) -> dict[str, Any]:
    """Return the sampling settings of a request by their names in `Sampling`.

    Args:
        fields: the request's fields.
        limits: names of the field that limits the tokens; only one may be sent.

    Raises:
        ApiError: a value is out of range.
    """
    biases = fields.get("logit_bias")
    if isinstance(biases, list | dict) and len(biases) > MAX_BIASES:
        raise field_error("logit_bias", f"must be at most {MAX_BIASES:,} tokens.")
    values = {
        name: sampling_value(name, name, fields[name]) for name in SAMPLING_FIELDS if name in fields
    }
    sent = [name for name in limits if name in fields]
    if len(sent) > 1:
        raise field_error(sent[0], f"cannot be combined with {sent[1]}.")
    for name in sent:
        values["max_tokens"] = limit_value(name, fields[name])
    if "stop" in fields:
        values["stop"] = check_stop("stop", fields["stop"])
    return values


def parse_effort(value: Any, path: str) -> str:
    """Return chatlm's `thinking` for a `reasoning_effort`.

    Raises:
        ApiError: it is not known; the path is named.
    """
    if not isinstance(value, str):
        raise field_error(path, "must be a string.")
    if value not in EFFORTS:
        raise field_error(path, f"must be one of {', '.join(EFFORTS)}.")
    return EFFORTS[value]


def parse_schema_format(
    values: Mapping[str, Any], path: str, described: Mapping[str, Any], described_path: str
) -> Schema | None:
    """Return the schema that an answer must fit; None if it is free.

    Args:
        values: the format, with its type.
        path: its name in an error, with a point at the end.
        described: what has the schema of the type `json_schema`, with its name.
        described_path: its name in an error, with a point at the end.

    Raises:
        ApiError: it is no format.
    """
    kind = get_typed(values, "type", str, path=path)
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise field_error(
            f"{path}type", f"must be text, json_object or json_schema, not {one_line(kind, 40)!r}."
        )
    schema = get_typed(described, "schema", dict, path=described_path)
    return checked_schema(schema, f"{described_path}schema")


def parse_tool(function: Any, path: str, known: frozenset[str]) -> ToolDefinition:
    """Read the description of one function.

    Args:
        function: the object with its name, description and parameters.
        path: its name in an error.
        known: further fields that it may have.

    Raises:
        ApiError: it is no function.
    """
    fields = without_nulls(function, path)
    refuse_unknown(fields, {"name", "description", "parameters", "strict", *known}, f"{path}.")
    get_typed(fields, "strict", bool, False, f"{path}.")  # arguments fit their schema anyway
    return tool_definition(
        get_typed(fields, "name", str, path=f"{path}."),
        get_typed(fields, "description", str, "", f"{path}."),
        ("parameters", get_typed(fields, "parameters", dict, {"type": "object"}, f"{path}.")),
        path,
    )


def parse_tools(
    fields: Mapping[str, Any], *, nested: bool
) -> tuple[tuple[ToolDefinition, ...], str, bool]:
    """Read `tools`, `tool_choice` and `parallel_tool_calls`.

    Args:
        fields: the request's fields.
        nested: whether a function is an object of its own in its tool, as in chat completions.

    Returns:
        the tools, the choice as in `GenerationRequest`, and whether several may be called.

    Raises:
        ApiError: they are not as they must be, or need something that is not here.
    """
    tools = []
    for index, tool in enumerate(get_typed(fields, "tools", list, [])):
        path = f"tools[{index}]"
        values = without_nulls(tool, path)
        kind = get_typed(values, "type", str, path=f"{path}.")
        if kind != "function":
            raise field_error(
                f"{path}.type",
                f"only functions are supported, not {one_line(kind, 40)!r}.",
                "unsupported_value",
            )
        if nested:
            refuse_unknown(values, ("type", "function"), f"{path}.")
            function = get_typed(values, "function", dict, path=f"{path}.")
            tools.append(parse_tool(function, f"{path}.function", frozenset()))
        else:
            tools.append(parse_tool(values, path, frozenset(("type",))))
    choice = _parse_tool_choice(fields.get("tool_choice", "auto"), nested)
    parallel = get_typed(fields, "parallel_tool_calls", bool, True)
    return check_tools(tools, choice), choice, parallel


def _parse_tool_choice(value: Any, nested: bool) -> str:
    if isinstance(value, str):
        if value not in ("auto", "none", "required"):
            raise field_error("tool_choice", "must be auto, none, required, or a function.")
        return value
    fields = without_nulls(value, "tool_choice")
    kind = get_typed(fields, "type", str, path="tool_choice.")
    if kind != "function":
        raise unsupported_error(
            "tool_choice.type", f"only function is supported, not {one_line(kind, 40)!r}."
        )
    if not nested:
        return get_typed(fields, "name", str, path="tool_choice.")
    function = get_typed(fields, "function", dict, path="tool_choice.")
    return get_typed(function, "name", str, path="tool_choice.function.")
