"""Constrained decoding with the real default model: schemas, grammars, thoughts, batches."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pytest

from chatlm.engines.batching import stream_many
from chatlm.engines.constraint_compiler import compile_schema
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.schema_bounds import bounded
from chatlm.errors import UsageError
from chatlm.types.events import Delta, EngineEvent, Finished
from chatlm.types.messages import Message
from chatlm.types.replies import StopReason
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from chatlm.types.schemas import parse_reply, parse_schema

CAT = Message("user", "Invent a cat and describe it.")
PERSON = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer", "minimum": 0, "maximum": 30},
            "colour": {"enum": ["black", "grün\n", None]},
            "toys": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 3},
        },
        "required": ["name", "age", "colour", "toys"],
    }
)


def request(**settings: Any) -> Request:
    return Request((CAT,), Sampling(**{"temperature": 0.9, "seed": 1, **settings}))


def collect(events: Iterable[EngineEvent | Exception]) -> tuple[str, Finished]:
    text, finished = "", None
    for event in events:
        if isinstance(event, Delta) and event.part == "text":
            text += event.text
        elif isinstance(event, Finished):
            finished = event
    assert finished is not None
    return text, finished


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_fits_its_schema(engine: LocalEngine, seed: int) -> None:
    text, finished = collect(engine.stream(request(schema=PERSON, seed=seed)))
    assert finished.stop_reason is StopReason.END
    value = parse_reply(json.loads(PERSON), text)
    assert list(value) == ["name", "age", "colour", "toys"]


def test_it_is_the_same_in_a_batch_and_one_token_at_a_time(engine: LocalEngine) -> None:
    requests = [request(schema=PERSON, seed=seed) for seed in (1, 2)] + [
        request(grammar="regex:[a-z]{3,9}"), request(max_tokens=20)
    ]  # fmt: skip
    alone = [collect(engine.stream(each)) for each in requests]
    together: dict[int, list[Any]] = {}
    for index, event in stream_many(engine, requests):
        together.setdefault(index, []).append(event)
    assert [collect(together[index])[0] for index in range(len(requests))] == [
        text for text, _ in alone
    ]


def test_forced_tokens_have_log_probabilities(engine: LocalEngine) -> None:
    asked = Request((CAT,), Sampling(seed=3, schema=PERSON), logprobs=2)
    tokens = [
        token
        for event in engine.stream(asked)
        if isinstance(event, Delta)
        for token in event.logprobs
    ]
    text, finished = collect(engine.stream(asked))
    assert b"".join(token.bytes for token in tokens).decode().startswith(text)
    assert len(tokens) in (finished.usage.completion_tokens, finished.usage.completion_tokens - 1)


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        (r"regex:[0-9]{3}-[0-9]{4}", r"[0-9]{3}-[0-9]{4}"),
        ('lark:start: "yes" | "no"', r"yes|no"),
        ('gbnf:root ::= "<" [a-z]+ ">"', r"<[a-z]+>"),
    ],
)
def test_an_answer_matches_its_grammar(engine: LocalEngine, grammar: str, pattern: str) -> None:
    text, finished = collect(engine.stream(request(grammar=grammar, max_tokens=300)))
    assert finished.stop_reason in (StopReason.END, StopReason.LENGTH)
    assert finished.stop_reason is StopReason.LENGTH or re.fullmatch(pattern, text)


def test_a_cut_answer_says_so(engine: LocalEngine) -> None:
    text, finished = collect(engine.stream(request(schema=PERSON, max_tokens=6)))
    assert finished.stop_reason is StopReason.LENGTH
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_an_answer_that_was_cut_is_continued_within_its_schema(engine: LocalEngine) -> None:
    begun, _ = collect(engine.stream(request(schema=PERSON, max_tokens=12)))
    rest, finished = collect(
        engine.stream(Request((CAT, Message("assistant", begun)), Sampling(seed=1, schema=PERSON)))
    )
    assert finished.stop_reason is StopReason.END
    parse_reply(json.loads(PERSON), begun + rest)


def test_a_beginning_that_does_not_fit_is_refused(engine: LocalEngine) -> None:
    with pytest.raises(UsageError, match="beginning of the reply"):
        collect(
            engine.stream(Request((CAT, Message("assistant", "Sure:")), Sampling(schema=PERSON)))
        )


def test_thoughts_are_free_and_the_answer_fits(thinking_engine: LocalEngine) -> None:
    thought = answer = ""
    asked = Request(
        (Message("user", "4 plus 5?"),), Sampling(temperature=0, grammar="regex:n=[0-9]{1,4}")
    )
    for event in thinking_engine.stream(asked):
        if isinstance(event, Delta):
            thought += event.text if event.part == "reasoning" else ""
            answer += event.text if event.part == "text" else ""
    assert thought
    assert re.fullmatch("n=[0-9]{1,4}", answer)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"schema": '{"type": "array", "uniqueItems": true, "minItems": 2}'}, "uniqueItems"),
        ({"schema": '{"not": {"pattern": "x"}}'}, "not"),
        ({"schema": '{"$ref": "https://example.org/schema"}'}, "example.org"),
        ({"grammar": "regex:("}, "unclosed group"),
        ({"grammar": "lark:start: nothing"}, "nothing"),
        ({"grammar": "gbnf:root ::= ("}, "line 1"),
    ],
)
def test_what_cannot_be_followed_is_named(
    engine: LocalEngine, settings: dict[str, str], named: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(named)):
        collect(engine.stream(request(**settings)))


@pytest.mark.parametrize(
    ("schema", "stricter"),
    [
        ({"type": "string"}, {"type": "string", "maxLength": 1000}),
        (
            {"type": "string", "minLength": 9000},
            {"type": "string", "minLength": 9000, "maxLength": 9000},
        ),
        ({"type": "string", "pattern": "^a$"}, {"type": "string", "pattern": "^a$"}),
        (
            {"type": "array", "items": {"type": "boolean"}},
            {"type": "array", "items": {"type": "boolean"}, "maxItems": 32},
        ),
        (
            {"properties": {"a": {"enum": [1]}}},
            {"properties": {"a": {"enum": [1]}}, "additionalProperties": False},
        ),
        (
            {"properties": {"a": True}, "additionalProperties": True},
            {"properties": {"a": True}, "additionalProperties": True},
        ),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "null"}}},) * 2,
    ],
)  # fmt: skip
def test_unbounded_schemas_get_limits(schema: Any, stricter: Any) -> None:
    assert bounded(schema) == stricter


def test_objects_that_all_of_combines_stay_open() -> None:
    combined = {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"]},
        ]
    }
    assert "additionalProperties" not in json.dumps(bounded(combined))
    assert compile_schema(combined)


@pytest.mark.parametrize(
    ("text", "properties"),
    [
        ("name str, age int", {"name": {"type": "string"}, "age": {"type": "integer"}}),
        ("name", {"name": {"type": "string"}}),
        (
            "tags str[]\nmood good|bad: how it feels",
            {
                "tags": {"type": "array", "items": {"type": "string"}},
                "mood": {"enum": ["good", "bad"], "description": "how it feels"},
            },
        ),
    ],
)
def test_the_short_notation(text: str, properties: Any) -> None:
    schema = parse_schema(text)
    assert schema["properties"] == properties
    assert schema["required"] == list(properties)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"type": "strin"}',
        "age integer",
        "a, a",
        '{"a":' * 100_000,
        json.dumps({"pattern": "(" * 5000 + ")" * 5000}),
    ],
)
def test_invalid_schemas_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_schema(text)


def test_what_is_too_complex_or_without_an_end_is_refused_in_plain_words(
    engine: LocalEngine,
) -> None:
    """The library's words hold the whole state of its parser."""
    levels: dict[str, Any] = {"d40": {"type": "null"}}
    for level in range(40):
        both = {name: {"$ref": f"#/$defs/d{level + 1}"} for name in ("l", "r")}
        levels[f"d{level}"] = {"type": "object", "properties": both, "required": ["l", "r"]}
    for schema, problem in (
        ({"$ref": "#"}, "no text fits it"),
        ({"$ref": "#/$defs/d0", "$defs": levels}, "too complex"),
        ({"type": "string", "pattern": "^" + "a?" * 3000 + "a" * 3000 + "$"}, "too complex"),
        ({"not": {}}, "Nothing fits"),
    ):
        sampling = Sampling(schema=json.dumps(schema), max_tokens=20)
        request = Request((Message("user", "Hi"),), sampling)
        with pytest.raises(UsageError, match=problem) as caught:
            list(engine.stream(request))
        assert "\n" not in caught.value.message
        assert "<state>" not in str(caught.value)
