"""Tools over the endpoint: offered, called, and answered by the client."""

from __future__ import annotations

import dataclasses
from typing import Any

import openai
import pytest

from chatlm import Message, Text, ToolCall, ToolResult
from chatlm_serve.errors import ApiError
from chatlm_serve.generation_request import MAX_TOOLS
from chatlm_serve.protocols.openai_chat import parse_chat_request
from tests.plugins.serve import MODEL, Caller
from tests.plugins.test_serve_api import ask

PARAMETERS = {"type": "object", "properties": {"of": {"type": "integer"}}, "required": ["of"]}


def tool(name: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "description": "Returns it.", "parameters": PARAMETERS},
    }


def call(number: int, name: str = "size") -> dict[str, Any]:
    function = {"name": name, "arguments": '{"of": 1}'}
    return {"id": f"call{number}", "type": "function", "function": function}


def result(number: int, text: str = "7") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call{number}", "content": text}


ASKED = {"role": "user", "content": "How big?"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [call(0), call(1, "age")]}


def test_tools_are_called_and_their_results_answered(client: openai.OpenAI, caller: Caller) -> None:
    tools: Any = [tool("size"), tool("age")]
    called = ask(client, "How big?", tools=tools, tool_choice="required", parallel_tool_calls=False)
    (choice,) = called.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    request = caller.requests[-1]
    assert [each.to_dict() for each in request.tools] == tools
    assert (request.tool_choice, request.parallel_tool_calls) == ("required", False)
    messages: Any = [ASKED, choice.message.model_dump(), result(0), result(1, "9")]
    reply = client.chat.completions.create(model=MODEL, messages=messages, tools=tools)
    assert reply.choices[0].message.content == "7 9"
    assert caller.requests[-1].messages == (
        Message("user", "How big?"),
        Message(
            "assistant",
            [ToolCall("call0", "size", '{"of": 1}'), ToolCall("call1", "age", '{"of": 1}')],
        ),
        Message("tool", [ToolResult("call0", "size", "7"), ToolResult("call1", "age", "9")]),
    )


def test_earlier_turns_keep_their_calls(client: openai.OpenAI, caller: Caller) -> None:
    said = CALLED | {"content": "Let me see."}
    messages: Any = [
        ASKED, said, result(1), result(0), {"role": "assistant", "content": "7 and 7."}, ASKED,
    ]  # fmt: skip
    tools: Any = [tool("size")]
    client.chat.completions.create(model=MODEL, messages=messages, tools=tools)
    sent = caller.requests[-1].messages
    assert [message.role for message in sent] == ["user", "assistant", "tool", "assistant", "user"]
    assert sent[1].parts[0] == Text("Let me see.")
    assert [part.type for part in sent[1].parts] == ["text", "tool_call", "tool_call"]


def test_a_tool_is_named_and_its_call_streamed(client: openai.OpenAI, caller: Caller) -> None:
    choice = {"type": "function", "function": {"name": "age"}}
    tools = [tool("size"), tool("age")]
    pieces = list(ask(client, "How old?", tools=tools, tool_choice=choice, stream=True))
    deltas = [each for piece in pieces for each in piece.choices[0].delta.tool_calls or ()]
    assert [each.index for each in deltas] == [0, 0]
    assert (deltas[0].id, deltas[0].function.name) == ("call1", "age")
    assert "".join(each.function.arguments for each in deltas) == '{"of": 1}'
    assert pieces[-1].choices[0].finish_reason == "tool_calls"
    assert caller.requests[-1].tool_choice == "age"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "x", "parameters": {"type": 1}}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [tool("x"), tool("x")]}, "tools[1]"),
        ({"tools": [tool(f"x{number}") for number in range(MAX_TOOLS + 1)]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes", "tools": [tool("x")]}, "tool_choice"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "y"}}, "tools": [tool("x")]},
            "tool_choice",
        ),
        ({"tool_choice": {"type": "allowed_tools"}, "tools": [tool("x")]}, "tool_choice.type"),
        ({"parallel_tool_calls": 1, "tools": [tool("x")]}, "parallel_tool_calls"),
        ({"messages": [ASKED, CALLED]}, "messages"),
        ({"messages": [ASKED, CALLED, result(0)]}, "messages"),
        ({"messages": [ASKED, CALLED, result(0), ASKED]}, "messages"),
        ({"messages": [ASKED, CALLED, result(0), result(1), result(1)]}, "messages"),
        ({"messages": [ASKED, result(0)]}, "messages"),
        ({"messages": [ASKED, {"role": "assistant", "tool_calls": [{}]}]},
         "messages[1].tool_calls[0].function"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_tools_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_chat_request({"model": "m", "messages": [ASKED]} | fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.message.startswith(param)


def test_a_model_that_cannot_call_tools_says_so(client: openai.OpenAI, caller: Caller) -> None:
    caller.info = dataclasses.replace(caller.info, accepts=frozenset({"text"}))
    with pytest.raises(openai.BadRequestError, match="cannot call tools"):
        ask(client, "x", tools=[tool("size")])


def test_several_replies_are_told_apart(client: openai.OpenAI, caller: Caller) -> None:
    reply = ask(client, "x", n=3, seed=5)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert {choice.message.content for choice in reply.choices} == {"Nothing."}
    assert sorted(request.sampling.seed or 0 for request in caller.requests) == [5, 6, 7]
    pieces = list(ask(client, "x", n=2, stream=True, stream_options={"include_usage": True}))
    for number in range(2):
        own = [p.choices[0] for p in pieces if p.choices and p.choices[0].index == number]
        assert "".join(choice.delta.content or "" for choice in own) == "Nothing."
        assert own[0].delta.role == "assistant"
        assert own[-1].finish_reason == "stop"
    assert pieces[-1].usage.completion_tokens == 2 * reply.usage.completion_tokens // 3


def test_a_reply_that_was_begun_is_continued(client: openai.OpenAI, caller: Caller) -> None:
    begun = {"role": "assistant", "content": "It is"}
    messages: Any = [ASKED, begun]
    with pytest.raises(openai.BadRequestError, match="must be from the user"):
        client.chat.completions.create(model=MODEL, messages=messages)
    extra = {"continue_final_message": True}
    reply = client.chat.completions.create(model=MODEL, messages=messages, extra_body=extra)
    assert reply.choices[0].message.content == "Nothing."
    assert caller.requests[-1].messages[-1] == Message("assistant", "It is")
