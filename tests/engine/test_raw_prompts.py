"""Texts that are continued without a chat format, and gaps that are filled."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from chatlm import Delta, Finished, LocalEngine, Message, Request, Sampling, UsageError
from chatlm.engines.fill_in_middle import FORMATS, find_gap_format
from tests.engine.byte_model import END, dictate, open_byte_engine

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
GAP = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>")


def raw(*texts: str, **fields: Any) -> Request:
    messages = tuple(Message("user", text, pinned=True) for text in texts)
    return dataclasses.replace(Request(messages, raw=True), **fields)


def text_of(engine: LocalEngine, request: Request) -> str:
    return "".join(event.text for event in engine.stream(request) if isinstance(event, Delta))


def test_the_prompt_is_the_text_alone(engine: LocalEngine) -> None:
    text = "Once upon a time <|im_end|>\n<|im_start|>user\n"
    tokens = engine.preview(raw(text)).tokens
    assert "".join(token.text for token in tokens) == text
    assert not any(token.control for token in tokens)
    assert [token.id for token in tokens] == engine.prompt_encoder.encode_text(text)


def test_a_text_is_continued_as_it_is() -> None:
    engine = open_byte_engine(CHATML, "<|im_start|>")
    pieces = (dictate(engine, " there was"),)
    request = raw("Once", logits_processors=pieces)
    assert text_of(engine, request) == " there was"
    assert engine.preview(raw("Once")).tokens[0].text == "O"


@pytest.mark.parametrize("end", [END, "<|file_sep|>"])
def test_a_gap_is_filled(end: str) -> None:
    engine = open_byte_engine(CHATML, "<|im_start|>", *GAP)
    prompt = engine.preview(raw("a<|fim_suffix|>", "b"))
    assert [token.text for token in prompt.tokens if token.control] == list(GAP[:3])
    assert prompt.tokens[1].text == "a"
    assert "".join(token.text for token in prompt.tokens) == (
        "<|fim_prefix|>a<|fim_suffix|><|fim_suffix|>b<|fim_middle|>"
    )
    engine.prompt_encoder.as_raw()
    filled = (dictate(engine, "-", end=end),)
    request = raw("a", "b", logits_processors=filled, sampling=Sampling(max_tokens=9))
    *_, last = engine.stream(request)
    assert isinstance(last, Finished)
    assert last.usage.completion_tokens == 2


def test_a_gap_needs_tokens_for_it(engine: LocalEngine) -> None:
    assert engine.info.raw_prompts == {"text"}
    with pytest.raises(UsageError, match="cannot fill gaps"):
        next(engine.stream(raw("a", "b")))


def test_every_format_is_found_by_its_tokens() -> None:
    for form in FORMATS:
        assert find_gap_format(form.tokens) is form
        assert find_gap_format(form.tokens[1:]) is None
