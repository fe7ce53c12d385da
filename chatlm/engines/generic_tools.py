"""Offer tools to models whose chat templates describe none: in the system prompt, as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chatlm.engines.tracked_text import TEMPLATE, UNKNOWN, TrackedText
from chatlm.types.requests import ToolDefinition

_HEAD = "You can call these tools:\n"
_TAIL = (
    "\nTo call a tool, write its name and arguments like this, and nothing else:\n"
    '<tool_call>\n{"name": "NAME", "arguments": {"KEY": "VALUE"}}\n</tool_call>\n'
    "Its result comes back as <tool_response>. Answer without a call if none is needed."
)


def describe(
    chat: Sequence[Mapping[str, Any]], tools: Sequence[ToolDefinition], has_system: bool
) -> list[dict[str, Any]]:
    """Return messages of a template that know only the roles system, user and assistant.

    Results of tools become messages of the user. The text of a tool is never taken for the
    template's own, so it cannot become a control token.

    Args:
        chat: messages of a template.
        tools: what the model may call; often none.
        has_system: whether the template takes a system prompt; if not, tools are described to the
            user's first message.
    """
    out: list[dict[str, Any]] = []
    for message in chat:
        values = dict(message)
        if str(values["role"]) == "tool":
            values = {"role": TrackedText("user", TEMPLATE), "content": _result(values["content"])}
        if out and str(out[-1]["role"]) == str(values["role"]) == "user":
            gap = TrackedText("\n\n", TEMPLATE)
            out[-1]["content"] = out[-1]["content"] + gap + values["content"]
        else:
            out.append(values)
    if not tools:
        return out
    text = describe_tools(tools)
    role = "system" if has_system else "user"
    first = next((each for each in out[:1] if str(each["role"]) == role), None)
    if first is None:
        return [{"role": TrackedText(role, TEMPLATE), "content": text}, *out]
    gap = TrackedText("\n\n", TEMPLATE)
    own = first["content"]
    first["content"] = own + gap + text if has_system else text + gap + own
    return out


def _result(text: TrackedText) -> TrackedText:
    return _text("<tool_response>\n") + text + _text("\n</tool_response>")


def describe_tools(tools: Sequence[ToolDefinition]) -> TrackedText:
    """Return what the model reads of tools."""
    lines = [json.dumps(tool.to_dict()["function"], ensure_ascii=False) for tool in tools]
    return _text(_HEAD) + TrackedText("\n".join(lines), UNKNOWN) + _text(_TAIL)


def _text(text: str) -> TrackedText:
    return TrackedText(text, TEMPLATE)
