"""Whatever fits the grammar of a family's tool calls is read as calls that fit their schemas."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer

from chatlm.engines.model_families import FAMILIES, ModelFamily
from chatlm.engines.tool_call_grammars import GrammarWriter, quoted

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


class Vocabulary:
    """A token for each byte, and one for each control token of a family."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = 256

    def __init__(self, family: ModelFamily) -> None:
        assert family.tool_calls is not None
        marks = [*family.tool_calls.inner, *family.tool_calls.ends]
        self.names = [mark for mark in marks if mark in CONTROL]
        self.special_token_ids = list(range(256, 257 + len(self.names)))
        self.tokens = [bytes([value]) for value in range(256)]
        self.tokens += [b"<eos>", *(mark.encode() for mark in self.names)]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())

    def marker(self, text: str) -> str:
        pieces = []
        while text:
            places = {text.find(name): name for name in self.names if name in text}
            place = min(places, default=len(text))
            pieces.append(quoted(text[:place]))
            text = text[place:]
            if text:
                pieces.append(f"<[{257 + self.names.index(places[place])}]>")
                text = text[len(places[place]) :]
        return " ".join(filter(None, pieces))


CONTROL = {
    "<|constrain|>", "<|call|>", "<|channel|>", "<|message|>", '<|"|>', "<tool_call|>", "[ARGS]",
    "[TOOL_CALLS]", "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>",
    "<|tool_calls_section_end|>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>",
    "</arg_value>",
}  # fmt: skip


def generated(family: ModelFamily, seed: int, several: bool) -> Iterator[str]:
    """Generate a block by choosing at random among what is allowed, and return its text."""
    form = family.tool_calls
    assert form is not None
    vocabulary: Any = Vocabulary(family)
    tokenizer = LLTokenizer(vocabulary, n_vocab=len(vocabulary.tokens), eos_token=[256])
    end = vocabulary.marker(form.ends[0]) if form.ends else ""
    grammar = form.grammar(SCHEMAS, GrammarWriter(vocabulary.marker, end, several))
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    chance = random.Random(seed)
    written = b""
    mask = np.zeros((len(vocabulary.tokens) + 31) // 32, dtype=np.int32)
    for _ in range(3000):
        if matcher.is_stopped():
            break
        matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(vocabulary.tokens)]
        allowed = np.flatnonzero(bits).tolist()
        # rather what ends a value than letters, and these rather than bytes of rare characters
        weights = [
            9.0 if one > 255 or chr(one) in '"</]}' else float(31 < one < 127) or 0.01
            for one in allowed
        ]
        (token,) = chance.choices(allowed, weights)
        assert matcher.consume_token(token)
        if token == 256:
            break
        written += vocabulary.tokens[token]
    else:
        pytest.fail(f"no end: {written[:300]!r}")
    text = written.decode()
    yield text.removesuffix(form.ends[0]) if form.ends else text


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("family", CALLING, ids=[family.name for family in CALLING])
def test_what_fits_the_grammar_is_read_as_calls(family: ModelFamily, several: bool) -> None:
    form = family.tool_calls
    assert form is not None
    names = set()
    for seed in range(8):
        for text in generated(family, seed, several):
            calls = form.read(text, SCHEMAS)
            assert several or len(calls) == 1, text
            for call in calls:
                names.add(call.name)
                jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])
    assert names == SCHEMAS.keys()
