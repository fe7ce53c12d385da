"""OpenAI's responses, through the official client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm import Message, Reasoning, Text, ToolCall, ToolResult
from chatlm.engines.scripted import ScriptedEngine
from chatlm_serve.errors import ApiError
from chatlm_serve.protocols.openai_responses import KNOWN_FIELDS, parse_response_request
from tests.plugins.serve import MODEL, Caller, serving
from tests.plugins.test_serve_api import Failing, client_of
from tests.plugins.test_serve_params import JSON
from tests.plugins.test_serve_tools import PARAMETERS

TOOL: Any = {"type": "function", "name": "size", "parameters": PARAMETERS, "strict": True}


def test_a_response_comes_whole(client: openai.OpenAI, caller: Caller) -> None:
    response = client.responses.create(
        model=MODEL,
        input="one two",
        instructions="Be brief.",
        temperature=0.5,
        max_output_tokens=9,
        metadata={"a": "b"},
        store=True,
    )
    assert (response.status, response.output_text, response.model) == (
        "completed", "Nothing.", MODEL,
    )  # fmt: skip
    assert (response.store, response.metadata) == (False, {"a": "b"})  # type: ignore[attr-defined]
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + 1
    request = caller.requests[-1]
    assert [message.text for message in request.messages] == ["Be brief.", "one two"]
    assert (request.sampling.temperature, request.max_new_tokens) == (0.5, 9)


def test_a_response_comes_as_events(client: openai.OpenAI) -> None:
    engine = ScriptedEngine((Reasoning("So it is."), Text("It is 4.")), thinks=True)
    with serving(engine) as address:
        events: list[Any] = list(
            client_of(address).responses.create(model=MODEL, input="2+2?", stream=True)
        )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    part = ["output_item.added", "content_part.added"]
    end = ["content_part.done", "output_item.done"]
    assert kinds == [
        "created", "in_progress",
        *part, *["reasoning_text.delta"] * 3, "reasoning_text.done", *end,
        *part, *["output_text.delta"] * 3, "output_text.done", *end,
        "completed",
    ]  # fmt: skip
    final = events[-1].response
    assert final.output_text == "It is 4."
    assert final.output[0].content[0].text == "So it is."
    text = "".join(each.delta for each in events if each.type == "response.output_text.delta")
    assert text == "It is 4."


def test_tools_are_called_and_their_results_answered(client: openai.OpenAI, caller: Caller) -> None:
    called = client.responses.create(
        model=MODEL, input="How big?", tools=[TOOL], tool_choice="required"
    )
    (call,) = called.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("size", {"of": 1})
    items: Any = [
        {"role": "user", "content": "How big?"},
        *(item.model_dump() for item in called.output),
        {"type": "function_call_output", "call_id": call.call_id, "output": "7"},
    ]
    answered = client.responses.create(model=MODEL, input=items, tools=[TOOL])
    assert answered.output_text == "7"
    assert caller.requests[-1].messages[1:] == (
        Message("assistant", [ToolCall("call0", "size", '{"of": 1}')]),
        Message("tool", [ToolResult("call0", "size", "7")]),
    )
    with client.responses.stream(model=MODEL, input="How big?", tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    assert final.output[0].to_dict()["arguments"] == '{"of": 1}'


def test_a_schema_reaches_the_engine(client: openai.OpenAI, caller: Caller) -> None:
    form: Any = {"type": "json_schema", "name": "x", "schema": PARAMETERS, "strict": True}
    client.responses.create(model=MODEL, input="x", text={"format": form})
    assert json.loads(caller.requests[-1].sampling.schema or "") == PARAMETERS


def test_a_cut_response_is_incomplete(client: openai.OpenAI) -> None:
    with serving(ScriptedEngine("one two three")) as address:
        response = client_of(address).responses.create(model=MODEL, input="x", max_output_tokens=1)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output_text == "one"


def test_a_response_that_fails_says_so() -> None:
    with serving(Failing(ZeroDivisionError("secret"))) as address:
        events: list[Any] = list(
            client_of(address).responses.create(model=MODEL, input="x", stream=True)
        )
    assert events[-1].type == "response.failed"
    assert "Internal server error" in events[-1].response.error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL | {"name": 1}]}, "tools[0].name"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort"),
        ({"input": []}, "input"),
        ({"input": 4}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         "input[0].content[0].image_url"),
        ({"input": [{"role": "user", "content": "x"},
                    {"type": "function_call_output", "call_id": "y", "output": "z"}]}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_tool_calls": 1}, "max_tool_calls"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_response_request({"model": "m", "input": "x"} | fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.message.startswith(param)


@given(st.dictionaries(st.sampled_from(sorted(KNOWN_FIELDS)), JSON))
def test_any_body_is_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        parse_response_request(fields)
    except ApiError as error:
        assert error.status == 400
