"""Calls that are demanded, forbidden or left to the model fit the schemas of their tools."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import jsonschema
import pytest
import torch

from chatlm import (
    Delta,
    Finished,
    LocalEngine,
    Message,
    Request,
    Sampling,
    StopReason,
    ToolCall,
    ToolDefinition,
    UsageError,
)
from chatlm.engines.batching import stream_many
from chatlm.engines.model_families import FAMILIES, ModelFamily
from chatlm.types.schemas import parse_reply
from tests.engine.byte_model import open_byte_engine
from tests.unit.test_tool_call_grammars import CONTROL

WEATHER = ToolDefinition(
    "get_weather",
    "Tell the weather.",
    {
        "type": "object",
        "properties": {
            "place": {"type": "string", "maxLength": 10},
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["place", "days"],
    },
)
NOW = ToolDefinition("now", "Tell the time.", {"type": "object", "properties": {}})
TOOLS = {tool.name: tool for tool in (WEATHER, NOW)}
QUESTION = Message("user", "Rain in Bern?")

CALLING = [family for family in FAMILIES if family.tool_calls is not None]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def open_family(family: ModelFamily) -> LocalEngine:
    """Open a uniform model whose template has the signs of a family."""
    form = family.tool_calls
    assert form is not None
    signs = " ".join((*family.tool_call_signs, *form.starts, *form.ends, *form.inner))
    tokens = {*CONTROL, *form.starts, *form.end_tokens} & {*form.markers, *form.end_tokens}
    if family.name == "gpt-oss":
        tokens = {"<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|call|>"}
    template = (
        "{% if " + form.tools_variable + " %}" + signs.replace("{", "{{ '{' }}") + "{% endif %}"
    )
    return open_byte_engine(template + CHAT, *sorted(tokens))


def prefer(engine: LocalEngine, *texts: str) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    """Return a logits processor that makes one text after another likely, then any token."""
    ids = [number for text in texts for number in engine.prompt_encoder.encode_markers(text)]
    start: list[int] = []

    def process(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        start[:] = start or [input_ids.shape[-1]]
        place = input_ids.shape[-1] - start[0]
        if place < len(ids):
            scores[0, ids[place]] += 60
        return scores

    return process


def run(
    engine: LocalEngine, *texts: str, seed: int = 0, schema: str = "", **options: Any
) -> tuple[str, Finished]:
    """Return the text of a reply that begins with some texts if that is allowed."""
    request = Request(
        (QUESTION,),
        Sampling(temperature=1.0, seed=seed, max_tokens=400, schema=schema),
        logits_processors=(prefer(engine, *texts),) if texts else (),
        tools=tuple(TOOLS.values()),
        **options,
    )
    text = ""
    streamed: list[ToolCall] = []
    for event in engine.stream(request):
        if isinstance(event, Delta):
            text += event.answer
            for delta in event.calls:
                if delta.id:
                    streamed.append(ToolCall(delta.id, delta.name, ""))
                call = streamed[delta.index]
                arguments = call.arguments + delta.arguments
                streamed[delta.index] = dataclasses.replace(call, arguments=arguments)
        if isinstance(event, Finished):
            for call in event.tool_calls:
                jsonschema.validate(json.loads(call.arguments), TOOLS[call.name].parameters)
            assert tuple(streamed[: len(event.tool_calls)]) == event.tool_calls
            return text, event
    raise AssertionError("the stream ended without Finished")


def names(end: Finished) -> list[str]:
    return [call.name for call in end.tool_calls]


@pytest.mark.parametrize("family", CALLING, ids=[family.name for family in CALLING])
def test_every_family_calls_when_it_must(family: ModelFamily) -> None:
    engine = open_family(family)
    assert family.name in engine.prompt_encoder.family.name
    for seed, choice in enumerate(("required", "get_weather", "now")):
        # a uniform model would think until the context is full
        thought = ("<|channel|>analysis<|message|>Hm.<|end|>",) if "oss" in family.name else ()
        text, end = run(engine, *thought, seed=seed, tool_choice=choice, parallel_tool_calls=False)
        assert end.stop_reason is StopReason.TOOL_CALLS
        assert len(end.tool_calls) == 1
        assert choice == "required" or names(end) == [choice]
        assert text == ""


@pytest.mark.parametrize("family", CALLING, ids=[family.name for family in CALLING])
def test_a_call_that_the_model_begins_fits_its_schema(family: ModelFamily) -> None:
    engine = open_family(family)
    form = family.tool_calls
    assert form is not None
    start = form.bare_start + '"name": "get_weather"' if form.bare_start == "{" else form.starts[0]
    text, end = run(engine, start, parallel_tool_calls=False)
    assert (text, len(end.tool_calls)) == ("", 1)


@pytest.mark.parametrize("family", CALLING, ids=[family.name for family in CALLING])
def test_no_family_calls_when_it_may_not(family: ModelFamily) -> None:
    engine = open_family(family)
    form = family.tool_calls
    assert form is not None
    for start in form.starts:
        text, end = run(engine, start, tool_choice="none")
        assert end.tool_calls == ()
        assert start not in text


THINKING = CHAT + "{% if false %}<think></think>{% endif %}{% if tools %}<tool_call>{% endif %}"


def test_a_thought_is_free_and_a_call_follows_it() -> None:
    engine = open_byte_engine(THINKING, "<think>", "</think>", "<tool_call>", "</tool_call>")
    thought = "<think>a <tool_call> perhaps</think>"
    for seed in range(3):
        text, end = run(
            engine, thought, seed=seed, tool_choice="required", parallel_tool_calls=False
        )
        assert text == ""
        assert names(end)
        assert end.usage.reasoning_tokens


def test_gpt_oss_calls_after_its_thought_instead_of_answering() -> None:
    engine = open_family(next(family for family in CALLING if family.name == "gpt-oss"))
    thought = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
    )
    text, end = run(engine, thought, tool_choice="get_weather")
    assert (text, names(end)) == ("", ["get_weather"])


SCHEMA = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})


def test_an_answer_fits_its_schema_beside_tools() -> None:
    engine = open_byte_engine(THINKING, "<think>", "</think>", "<tool_call>", "</tool_call>")
    called = answered = 0
    for seed in range(12):
        opening = ("<tool_call>",) if seed % 3 == 0 else ()
        text, end = run(engine, *opening, seed=seed, schema=SCHEMA)
        if end.tool_calls:
            assert text == ""
            called += 1
        elif end.stop_reason is StopReason.END:
            parse_reply(json.loads(SCHEMA), text)
            answered += 1
    assert called and answered


def test_one_reply_has_several_calls_or_one() -> None:
    engine = open_byte_engine(THINKING, "<tool_call>", "</tool_call>")
    call = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    ends = "<|im_end|>"
    _, end = run(engine, call, call, ends)
    assert names(end) == ["now", "now"]
    _, end = run(engine, call, call, ends, parallel_tool_calls=False)
    assert names(end) == ["now"]


def test_a_tool_that_cannot_be_demanded_is_named() -> None:
    with pytest.raises(UsageError, match="'rain'"):
        Request((QUESTION,), tools=(WEATHER,), tool_choice="rain")
    with pytest.raises(UsageError, match="there must be a tool"):
        Request((QUESTION,), tool_choice="required")
    with pytest.raises(UsageError, match="same name"):
        Request((QUESTION,), tools=(WEATHER, WEATHER))


def test_the_default_model_calls_alone_and_in_a_batch(engine: LocalEngine) -> None:
    requests: Sequence[Request] = [
        Request(
            (QUESTION,),
            Sampling(seed=seed, max_tokens=120),
            tools=tuple(TOOLS.values()),
            tool_choice=choice,
        )
        for seed, choice in enumerate(("required", "get_weather", "auto"))
    ]
    alone = []
    for request in requests:
        end = [event for event in engine.stream(request) if isinstance(event, Finished)][-1]
        alone.append(end)
    together = {
        index: event
        for index, event in stream_many(engine, requests)
        if isinstance(event, Finished)
    }
    for index, end in enumerate(alone):
        assert together[index].tool_calls == end.tool_calls
        for call in end.tool_calls:
            jsonschema.validate(json.loads(call.arguments), TOOLS[call.name].parameters)
    assert alone[0].tool_calls and names(alone[1])[0] == "get_weather"


def test_a_tool_that_cannot_be_offered_is_named(engine: LocalEngine) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(3000):
        deep = {"type": "object", "properties": {"x": deep}}
    with pytest.raises(UsageError, match="The tool dig: the schema is nested"):
        ToolDefinition("dig", "Dig.", deep)
    for broken in ({"type": "nope"}, {"properties": {"x": {"pattern": "(["}}}):
        tool = ToolDefinition("dig", "Dig.", broken)
        with pytest.raises(UsageError, match="The tool dig cannot be offered"):
            list(engine.stream(Request((QUESTION,), tools=(tool,))))


def test_the_text_of_a_call_that_is_cut_is_marked() -> None:
    family = next(each for each in CALLING if each.name.startswith("Hermes"))
    with closing(open_family(family)) as engine:
        start = '<tool_call>\n{"name": "get_weather", "arguments": {"place": "Bern'
        request = Request(
            (QUESTION,),
            Sampling(temperature=1.0, seed=0, max_tokens=len(start)),
            logits_processors=(prefer(engine, start),),
            tools=tuple(TOOLS.values()),
        )
        events = [*engine.stream(request)]
    end, deltas = events[-1], [each for each in events if isinstance(each, Delta)]
    assert isinstance(end, Finished)
    assert (end.stop_reason, end.tool_calls) == (StopReason.LENGTH, ())
    pieces = [piece for each in deltas for piece in each.calls]
    assert pieces[0].name == "get_weather"
    assert "".join(piece.arguments for piece in pieces).startswith('{"place": "B')
    marked = [each.text for each in deltas if each.repeats_call]
    assert "".join(marked).startswith('<tool_call>\n{"name": "get_weather"')
    assert not any(each.text for each in deltas if not each.repeats_call)
