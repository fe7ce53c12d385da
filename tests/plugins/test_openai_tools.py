"""Tools, calls and results are sent to servers in OpenAI's form."""

from __future__ import annotations

from chatlm import Message, Request, Sampling, Text, ToolCall, ToolDefinition, ToolResult
from chatlm_openai.protocol import build_body

TOOL = ToolDefinition("add", "Add.", {"type": "object", "properties": {}})
CALL = ToolCall("c1", "add", '{"a": 1}')


def test_a_request_without_tools_has_no_such_fields() -> None:
    body = build_body("m", Request((Message("user", "Hi"),)), Sampling())
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & body.keys()


def test_tools_calls_and_results_are_sent() -> None:
    messages = (
        Message("user", "1 + 1?"),
        Message("assistant", [Text("I add."), CALL, ToolCall("c2", "add", "{}")]),
        Message("tool", [ToolResult("c1", "add", "2"), ToolResult("c2", "add", "no", True)]),
    )
    body = build_body("m", Request(messages, tools=(TOOL,)), Sampling())
    assert body["tools"] == [TOOL.to_dict()]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("auto", True)
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": "I add.",
            "tool_calls": [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": "add", "arguments": arguments},
                }
                for call_id, arguments in (("c1", '{"a": 1}'), ("c2", "{}"))
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "tool", "tool_call_id": "c2", "content": "no"},
    ]


def test_a_call_without_text_has_no_content_and_one_tool_can_be_demanded() -> None:
    messages = (Message("user", "Hi"), Message("assistant", [CALL]))
    body = build_body("m", Request(messages, tools=(TOOL,), tool_choice="add"), Sampling())
    assert body["messages"][1]["content"] is None
    assert body["tool_choice"] == {"type": "function", "function": {"name": "add"}}
