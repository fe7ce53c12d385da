"""Messages of OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatlm import Message, Part, Reasoning, Role, Text, ToolCall, ToolResult, one_line
from chatlm_serve.errors import field_error
from chatlm_serve.fields import get_typed, refuse_unknown, unsupported_error, without_nulls
from chatlm_serve.images import image_from_url

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}

REASONING_FIELDS = ("reasoning_content", "reasoning")
"""Fields in which clients send thoughts of earlier replies back; the template decides whether the
model reads them again."""

_FIELDS: Mapping[str, tuple[str, ...]] = {
    "system": ("role", "content"),
    "user": ("role", "content"),
    "assistant": (
        "role", "content", "refusal", "tool_calls", "annotations", "provider_specific_fields",
        *REASONING_FIELDS,
    ),
    "tool": ("role", "content", "tool_call_id", "name"),
}  # fmt: skip
"""Fields of each role. Annotations are notes about a reply, which no model reads."""


def parse_messages(values: Sequence[Any], path: str = "messages") -> list[Message]:
    """Read a request's messages; a result has the id of its call, but no name.

    Raises:
        ApiError: one is not as it must be; the field is named.
    """
    return [_parse_message(value, f"{path}[{index}]") for index, value in enumerate(values)]


def _parse_message(message: Any, path: str) -> Message:
    if not isinstance(message, dict):
        raise field_error(path, "must be an object with role and content.")
    fields = without_nulls(message, path)
    name = get_typed(fields, "role", str, path=f"{path}.")
    if name not in ROLES:
        raise field_error(
            f"{path}.role", f"must be {', '.join(ROLES)}, not {one_line(name, 40)!r}."
        )
    role = ROLES[name]
    refuse_unknown(fields, _FIELDS[role], f"{path}.")
    if role == "tool":
        call_id = get_typed(fields, "tool_call_id", str, path=f"{path}.")
        if not isinstance(fields.get("content"), list):
            return Message("tool", (ToolResult(call_id, "", parse_content(fields, path)),))
        output = Message("tool", _parse_parts(fields, path))
        images = (part for part in output.parts if not isinstance(part, Text))
        return Message("tool", (ToolResult(call_id, "", output.text), *images))
    if role == "user" and isinstance(fields.get("content"), list):
        return Message(role, _parse_parts(fields, path))
    if role != "assistant":
        return Message(role, parse_content(fields, path))
    calls = parse_tool_calls(fields, path)
    thoughts = (get_typed(fields, each, str, "", f"{path}.") for each in REASONING_FIELDS)
    reasoning = next(filter(None, thoughts), "")
    refusal = get_typed(fields, "refusal", str, "", f"{path}.")
    text = parse_content(fields, path, "" if calls or refusal else None) or refusal
    parts: tuple[Part, ...] = (Reasoning(reasoning), Text(text))
    return Message("assistant", (*(part for part in parts if part.text), *calls))  # type: ignore[union-attr]


def parse_content(fields: Mapping[str, Any], path: str, default: str | None = None) -> str:
    """Return the text of a message's content.

    Args:
        fields: the message.
        path: its name in an error.
        default: the text of a message without content; None if it must have some.

    Raises:
        ApiError: it is missing, or has something else than text.
    """
    content = fields.get("content", default)
    if not isinstance(content, list):
        return get_typed({"content": content}, "content", str, path=f"{path}.")
    return "".join(
        _parse_part(part, f"{path}.content[{index}]") for index, part in enumerate(content)
    )


def _parse_parts(fields: Mapping[str, Any], path: str) -> list[Part]:
    """Return the texts and images of a content that is a list."""
    return [
        _parse_text_or_image(part, f"{path}.content[{index}]")
        for index, part in enumerate(fields["content"])
    ]


def _parse_text_or_image(part: Any, path: str) -> Part:
    if not isinstance(part, dict) or part.get("type") != "image_url":
        return Text(_parse_part(part, path))
    fields = without_nulls(part, path)
    refuse_unknown(fields, ("type", "image_url"), f"{path}.")
    link = without_nulls(get_typed(fields, "image_url", dict, path=f"{path}."), f"{path}.image_url")
    # how closely to look is up to the model here
    refuse_unknown(link, ("url", "detail"), f"{path}.image_url.")
    url = get_typed(link, "url", str, path=f"{path}.image_url.")
    return image_from_url(url, f"{path}.image_url.url")


def _parse_part(part: Any, path: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("text", "refusal"):
        raise field_error(path, 'only parts of type "text" are supported.', "unsupported_value")
    return get_typed(part, kind, str, path=f"{path}.")


def parse_tool_calls(fields: Mapping[str, Any], path: str) -> tuple[ToolCall, ...]:
    """Read the tool calls of an assistant's message.

    Raises:
        ApiError: one is not as it must be.
    """
    calls = []
    for index, value in enumerate(get_typed(fields, "tool_calls", list, [], f"{path}.")):
        place = f"{path}.tool_calls[{index}]"
        call = without_nulls(value, place)
        if call.get("type", "function") != "function":
            raise unsupported_error(f"{place}.type")
        function = get_typed(call, "function", dict, path=f"{place}.")
        calls.append(
            ToolCall(
                get_typed(call, "id", str, path=f"{place}."),
                get_typed(function, "name", str, path=f"{place}.function."),
                get_typed(function, "arguments", str, "{}", f"{place}.function."),
            )
        )
    return tuple(calls)
