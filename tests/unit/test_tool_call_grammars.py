"""Whatever fits the grammar of a family's tool calls is read as calls that fit their schemas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest

from chatlm.engines.model_families import FAMILIES, ModelFamily, ToolCallFormat
from chatlm.engines.tool_call_grammars import GrammarWriter, quoted
from tests.unit.random_text import END, random_text

SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "place": {"type": "string", "maxLength": 12},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "hourly": {"type": "boolean"},
        },
        "required": ["place", "days"],
    },
    "book": {
        "type": "object",
        "properties": {
            "guest": {"$ref": "#/$defs/person"},
            "nights": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
            "note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
        },
        "required": ["guest", "nights", "note"],
        "$defs": {
            "person": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 8},
                    "vip": {"type": "boolean"},
                },
                "required": ["name", "vip"],
            }
        },
    },
    "now": {},
}

CALLING = [family for family in FAMILIES if family.tool_calls is not None]


CONTROL = {
    "<|constrain|>", "<|call|>", "<|channel|>", "<|message|>", '<|"|>', "<tool_call|>", "[ARGS]",
    "[TOOL_CALLS]", "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>",
    "<|tool_calls_section_end|>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>",
    "</arg_value>",
}  # fmt: skip


def marker(text: str, names: Sequence[str]) -> str:
    """Return a text as a Lark expression, its control tokens by id."""
    pieces = []
    while text:
        places = {text.find(name): name for name in names if name in text}
        place = min(places, default=len(text))
        pieces.append(quoted(text[:place]))
        text = text[place:]
        if text:
            pieces.append(f"<[{END + 1 + names.index(places[place])}]>")
            text = text[len(places[place]) :]
    return " ".join(filter(None, pieces))


def random_block(form: ToolCallFormat, seed: int, several: bool) -> str:
    """Return what may stand between the markers of a block of calls."""
    names = [mark for mark in (*form.inner, *form.ends) if mark in CONTROL]
    end = marker(form.ends[0], names) if form.ends else ""
    writer = GrammarWriter(lambda text: marker(text, names), end, several)
    text = random_text(form.grammar(SCHEMAS, writer), seed, names)
    return text.removesuffix(form.ends[0]) if form.ends else text


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("family", CALLING, ids=[family.name for family in CALLING])
def test_what_fits_the_grammar_is_read_as_calls(family: ModelFamily, several: bool) -> None:
    form = family.tool_calls
    assert form is not None
    names = set()
    for seed in range(8):
        text = random_block(form, seed, several)
        calls = form.read(text, SCHEMAS)
        assert several or len(calls) == 1, text
        for call in calls:
            names.add(call.name)
            jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])
    assert names == SCHEMAS.keys()
