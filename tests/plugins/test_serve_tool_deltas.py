"""Tool calls that an engine streams reach clients in pieces, in each protocol."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import Any

import openai
import pytest

from chatlm import (
    Delta,
    EngineEvent,
    Finished,
    PromptReady,
    Request,
    StopReason,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from tests.plugins.serve import MODEL, Caller, send, serving
from tests.plugins.test_serve_api import client_of
from tests.plugins.test_serve_tools import tool

PIECES = ('{"of"', ": 1", "}")


class Streamer(Caller):
    """Writes a call piece by piece; may be cut before its end."""

    is_cut = False

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        usage = Usage(3, 0, 5)
        yield PromptReady(3, 100)
        yield Delta("Well. ", usage=usage)
        yield Delta("", usage=usage, calls=(ToolCallDelta(0, "call0", "size"),))
        pieces = PIECES[:2] if self.is_cut else PIECES
        for piece in pieces:
            yield Delta("", usage=usage, calls=(ToolCallDelta(0, arguments=piece),))
        if self.is_cut:
            yield Delta("<tool_call>", usage=usage, repeats_call=True)
            yield Finished(StopReason.LENGTH, usage)
        else:
            call = ToolCall("call0", "size", "".join(PIECES))
            yield Finished(StopReason.TOOL_CALLS, usage, None, (call,))


@pytest.fixture(params=[False, True], ids=["whole", "cut"])
def engine(request: pytest.FixtureRequest) -> Streamer:
    engine = Streamer()
    engine.is_cut = request.param
    return engine


@pytest.fixture
def address(engine: Streamer) -> Iterator[str]:
    with serving(engine) as address:
        yield address


def arguments(engine: Streamer) -> list[str]:
    return list(PIECES[:2] if engine.is_cut else PIECES)


def stream_of(address: str, path: str, **body: Any) -> list[dict[str, Any]]:
    answer = send(
        address,
        path,
        json.dumps({"model": MODEL, "stream": True, **body}).encode(),
        method="POST",
        headers={"Content-Type": "application/json"},
    )
    assert answer.status == 200, answer.body
    lines = [line.removeprefix(b"data: ") for line in answer.body.splitlines()]
    return [json.loads(line) for line in lines if line.startswith(b"{")]


ASKED = [{"role": "user", "content": "How big?"}]


def test_chat_completions(address: str, engine: Streamer) -> None:
    client: openai.OpenAI = client_of(address)
    tools: Any = [tool("size")]
    messages: Any = ASKED
    stream = client.chat.completions.create(
        model=MODEL, messages=messages, tools=tools, stream=True
    )
    choices = [chunk.choices[0] for chunk in stream]
    calls = [call for each in choices for call in each.delta.tool_calls or []]
    assert calls[0].function is not None
    assert (calls[0].id, calls[0].function.name) == ("call0", "size")
    texts = [call.function.arguments for call in calls if call.function]
    assert texts == ["", *arguments(engine)]
    assert "".join(each.delta.content or "" for each in choices) == "Well. "
    assert choices[-1].finish_reason == ("length" if engine.is_cut else "tool_calls")


def test_responses(address: str, engine: Streamer) -> None:
    tools = [{"type": "function", **tool("size")["function"]}]
    events = stream_of(address, "/v1/responses", input="How big?", tools=tools)
    kind = "response.function_call_arguments.delta"
    assert [each["delta"] for each in events if each["type"] == kind] == arguments(engine)
    last = events[-1]["response"]
    assert last["status"] == ("incomplete" if engine.is_cut else "completed")
    message, call = last["output"]
    assert message["content"][0]["text"] == "Well. "
    assert (call["name"], call["arguments"]) == ("size", "".join(arguments(engine)))
    assert call["status"] == last["status"]


def test_messages(address: str, engine: Streamer) -> None:
    described = tool("size")["function"]
    tools = [{"name": "size", "input_schema": described["parameters"]}]
    events = stream_of(address, "/v1/messages", messages=ASKED, tools=tools, max_tokens=9)
    deltas = [each["delta"] for each in events if each["type"] == "content_block_delta"]
    pieces = [each["partial_json"] for each in deltas if each["type"] == "input_json_delta"]
    assert pieces == ["", *arguments(engine)]
    assert [each["text"] for each in deltas if each["type"] == "text_delta"] == ["Well. "]
    blocks = [each["content_block"] for each in events if each["type"] == "content_block_start"]
    assert [each["type"] for each in blocks] == ["text", "tool_use"]
    (ended,) = [each["delta"] for each in events if each["type"] == "message_delta"]
    assert ended["stop_reason"] == ("max_tokens" if engine.is_cut else "tool_use")


def test_ollama_gets_calls_whole(address: str, engine: Streamer) -> None:
    lines = stream_of(address, "/api/chat", messages=ASKED, tools=[tool("size")])
    calls = [call for each in lines for call in each["message"].get("tool_calls", [])]
    text = "".join(each["message"]["content"] for each in lines)
    if engine.is_cut:
        assert (calls, text, lines[-1]["done_reason"]) == ([], "Well. <tool_call>", "length")
    else:
        assert [call["function"]["arguments"] for call in calls] == [{"of": 1}]
        assert text == "Well. "
