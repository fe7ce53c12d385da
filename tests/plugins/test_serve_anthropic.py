"""Anthropic's messages over `chatlm serve`, with Anthropic's own client and with raw requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatlm import EngineError, Reasoning, Text
from chatlm.engines.scripted import ScriptedEngine
from chatlm_serve.errors import ApiError
from chatlm_serve.generation_request import ClientConversation
from chatlm_serve.protocols.anthropic_messages import parse_message_request
from tests.plugins.serve import MODEL, Answer, Caller, Echo, send, serving

anthropic = pytest.importorskip("anthropic", reason="needs the client: pip install anthropic")

USER = {"role": "user", "content": "hi there"}
SIZE = {"name": "size", "description": "Its size.", "input_schema": {"type": "object"}}


def client_of(address: str, key: str = "none") -> Any:
    return anthropic.Anthropic(base_url=address, api_key=key, max_retries=0)


def create(client: Any, **fields: Any) -> Any:
    return client.messages.create(**{"model": MODEL, "max_tokens": 50, "messages": [USER]} | fields)


def post(address: str, body: Any, path: str = "/v1/messages", **headers: str) -> Answer:
    content = json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **headers}
    return send(address, path, content, method="POST", headers=sent)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def client(echo: Echo, home: Path) -> Iterator[Any]:
    with serving(echo) as address:
        yield client_of(address)


def test_a_message_whole_and_streamed(client: Any, echo: Echo) -> None:
    system = [{"type": "text", "text": "Be loud.", "cache_control": {"type": "ephemeral"}}]
    whole = create(client, system=system, extra_body={"temperature": 0.5, "top_k": 3})
    assert [(block.type, block.text) for block in whole.content] == [("text", "HI THERE")]
    assert (whole.stop_reason, whole.stop_sequence, whole.role) == ("end_turn", None, "assistant")
    assert whole.usage.output_tokens == 2
    assert whole.usage.input_tokens > 0
    request = echo.requests[-1]
    assert request.messages[0].text == "Be loud."
    assert (request.sampling.temperature, request.sampling.top_k) == (0.5, 3)
    assert request.max_new_tokens == 50
    with client.messages.stream(model=MODEL, max_tokens=50, messages=[USER]) as stream:
        assert "".join(stream.text_stream) == "HI THERE"
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 2)
    assert final.usage.input_tokens > 0


def test_why_a_message_ended(client: Any) -> None:
    assert create(client, max_tokens=1).stop_reason == "max_tokens"
    stopped = create(client, stop_sequences=["THERE"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "THERE")


def test_the_events_of_a_stream_are_anthropics(client: Any, home: Path) -> None:
    address = str(client.base_url).rstrip("/")
    body = {"model": MODEL, "max_tokens": 9, "messages": [USER], "stream": True}
    lines = post(address, body).body.decode().splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [each["type"] for each in data] == names
    assert names == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta",
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip


def test_tools_and_their_results(home: Path) -> None:
    engine = Caller()
    with serving(engine) as address:
        client = client_of(address)
        choice = {"type": "any", "disable_parallel_tool_use": True}
        called = create(client, tools=[SIZE], tool_choice=choice)
        (block,) = called.content
        assert (block.type, block.name, block.input) == ("tool_use", "size", {"of": 1})
        assert called.stop_reason == "tool_use"
        request = engine.requests[-1]
        assert (request.tool_choice, request.parallel_tool_calls) == ("required", False)
        result = {"type": "tool_result", "tool_use_id": block.id, "is_error": True}
        messages: list[Any] = [
            USER,
            {"role": "assistant", "content": [each.model_dump() for each in called.content]},
            {"role": "user", "content": [result | {"content": [{"type": "text", "text": "7"}]}]},
        ]
        answered = create(client, messages=messages, tools=[SIZE])
        assert answered.content[0].text == "7"
        (part,) = engine.requests[-1].messages[-1].parts
        assert getattr(part, "is_error", None) is True
        with client.messages.stream(
            model=MODEL, max_tokens=50, messages=[USER], tools=[SIZE]
        ) as stream:
            (block,) = stream.get_final_message().content
        assert (block.name, block.input) == ("size", {"of": 1})


def test_text_beside_results_is_a_message_of_its_own() -> None:
    messages = [
        USER,
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": ""},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "a", "name": "size", "input": {"of": 2}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": "7"},
            {"type": "text", "text": "And now?"},
        ]},
    ]  # fmt: skip
    request, _ = parse_message_request({"model": "m", "max_tokens": 1, "messages": messages})
    assert isinstance(request.conversation, ClientConversation)
    (turn,) = request.conversation.history
    assert [part.type for step in turn.reply for part in step.parts] == [
        "reasoning", "text", "tool_call", "tool_result",
    ]  # fmt: skip
    assert request.conversation.turn.question == "And now?"


def test_thoughts_come_when_they_are_asked_for(home: Path) -> None:
    thought = (Reasoning("Let me see."), Text("Four."))
    levels = ("off", "medium")
    engine = ScriptedEngine(*[thought] * 3, thinks=True, thinking_levels=levels)  # type: ignore[arg-type]
    with serving(engine) as address:
        client = client_of(address)
        plain = create(client)
        assert [block.type for block in plain.content] == ["text"]
        assert engine.requests[-1].sampling.thinking == "off"
        enabled = {"type": "enabled", "budget_tokens": 1024}
        whole = create(client, thinking=enabled)
        assert [block.type for block in whole.content] == ["thinking", "text"]
        assert engine.requests[-1].sampling.thinking_budget == 1024
        with client.messages.stream(
            model=MODEL, max_tokens=50, messages=[USER], thinking=enabled
        ) as stream:
            final = stream.get_final_message()
        assert [block.type for block in final.content] == ["thinking", "text"]
        assert final.content[0].thinking == "Let me see."


def test_a_model_that_does_not_think_just_answers(client: Any) -> None:
    assert create(client).content[0].text == "HI THERE"
    adaptive = create(client, thinking={"type": "adaptive"})
    assert [block.type for block in adaptive.content] == ["text"]


def test_tokens_are_counted(client: Any) -> None:
    few = client.messages.count_tokens(model=MODEL, messages=[USER])
    many = client.messages.count_tokens(model=MODEL, messages=[USER], system="Be very loud.")
    assert 0 < few.input_tokens < many.input_tokens


def test_a_schema_binds_the_answer() -> None:
    schema = {"type": "integer"}
    form = {"type": "json_schema", "schema": schema}
    body = {"model": "m", "max_tokens": 9, "messages": [USER], "output_config": {"format": form}}
    assert json.loads(parse_message_request(body)[0].sampling.schema or "") == schema


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": None}, "max_tokens: is required"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"colour": "red"}, "colour"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [USER | {"content": [{"type": "image"}]}]}, "messages[0].content[0].source"),
        ({"messages": [USER | {"name": "x"}]}, "messages[0].name"),
        ({"tools": [{"type": "web_search_20250305", "name": "web"}]}, "tools[0].type"),
        ({"tools": [SIZE, SIZE]}, "tools[1]"),
        ({"tools": [SIZE | {"input_schema": {"type": "nothing"}}]}, "tools[0].input_schema"),
        ({"tools": [SIZE | {"input_examples": [{}]}]}, "tools[0].input_examples"),
        ({"tool_choice": {"type": "tool", "name": "age"}, "tools": [SIZE]}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "much"}}, "thinking.type"),
        ({"thinking": []}, "thinking"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"temperature": 9}, "temperature"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_message_request({"model": "m", "max_tokens": 9, "messages": [USER]} | fields)
    assert caught.value.status == 400
    assert caught.value.message.startswith(named)


def test_errors_are_anthropics(client: Any, home: Path) -> None:
    with pytest.raises(anthropic.NotFoundError, match="There is no model called 'nobody'"):
        create(client, model="nobody")
    with pytest.raises(anthropic.BadRequestError, match="colour: is not supported"):
        create(client, extra_body={"colour": "red"})
    with serving(ScriptedEngine(EngineError("it broke"))) as address:
        body = {"model": MODEL, "max_tokens": 9, "messages": [USER], "stream": True}
        data = post(address, body).body.decode().splitlines()[-2]
        assert json.loads(data.removeprefix("data: ")) == {
            "type": "error",
            "error": {"type": "api_error", "message": "it broke"},
        }


def test_the_key_is_required_as_on_the_others(home: Path) -> None:
    with serving(Echo(), token="secret") as address:
        with pytest.raises(anthropic.AuthenticationError):
            create(client_of(address))
        assert create(client_of(address, "secret")).content[0].text == "HI THERE"
        assert post(address, {}).json["error"]["type"] == "authentication_error"
