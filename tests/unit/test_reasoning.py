"""Thoughts are separated from the answer while a reply streams, for each family's markers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.engines.model_families import (
    FAMILIES,
    HARMONY,
    THINK,
    ReasoningFormat,
    find_family,
)
from chatlm.engines.reply_parser import ReasoningParser

FORMATS = [family.reasoning for family in FAMILIES if family.reasoning is not None]

HARMONY_REPLY = (
    "<|channel|>analysis<|message|>User asks 2+2.<|end|><|start|>assistant<|channel|>final"
    "<|message|>It is 4."
)


def parse(parser: ReasoningParser, *pieces: str) -> list[tuple[str, str]]:
    """Return the parts of a streamed text, each as one."""
    out: list[tuple[str, str]] = []
    for piece in [*(each for text in pieces for each in parser.feed(text)), *parser.flush()]:
        if out and out[-1][0] == piece.part:
            out[-1] = (piece.part, out[-1][1] + piece.text)
        elif piece.text:
            out.append((piece.part, piece.text))
    return out


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.starts[0])
def test_a_thought_and_an_answer(form: ReasoningFormat) -> None:
    text = f"{form.starts[0]}\n A thought. \n{form.ends[0]}\n\nThe answer. "
    expected = [("reasoning", "A thought."), ("text", "The answer. ")]
    assert parse(ReasoningParser(form), text) == expected
    assert parse(ReasoningParser(form), *text) == expected
    opened = text.removeprefix(form.starts[0])
    assert parse(ReasoningParser(form, is_open=True), *opened) == expected


def test_harmony_sections() -> None:
    expected = [("reasoning", "User asks 2+2."), ("text", "It is 4.")]
    assert parse(ReasoningParser(HARMONY), *HARMONY_REPLY) == expected
    direct = "<|channel|>final<|message|>It is 4."
    assert parse(ReasoningParser(HARMONY), direct) == [("text", "It is 4.")]
    twice = "<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant" + HARMONY_REPLY
    assert parse(ReasoningParser(HARMONY), *twice) == [("text", "Let me see."), *expected]


def test_an_answer_may_be_about_the_markers() -> None:
    for text in ("Write <think> first, then </think>.", "a <think>b</think>"):
        assert parse(ReasoningParser(THINK), *text) == [("text", text)]
    thought = "<think>x</think>Tags are <think> and </think>."
    assert parse(ReasoningParser(THINK), *thought) == [
        ("reasoning", "x"),
        ("text", "Tags are <think> and </think>."),
    ]


def test_a_model_that_does_not_think_is_left_alone() -> None:
    text = "\n <think>x</think> y"
    assert parse(ReasoningParser(None), *text) == [("text", text)]


def test_a_continued_part_keeps_its_blanks() -> None:
    assert parse(ReasoningParser(THINK, continues=True), " and", " so") == [("text", " and so")]
    inside = ReasoningParser(THINK, is_open=True, continues=True)
    assert parse(inside, " and so", "</think>", "\n4") == [("reasoning", " and so"), ("text", "4")]


def test_an_unfinished_thought_stays_a_thought() -> None:
    assert parse(ReasoningParser(THINK), "<think>\nso", " far </th") == [
        ("reasoning", "so far </th")
    ]


def test_an_empty_thought_is_none() -> None:
    assert parse(ReasoningParser(THINK), "<think>\n\n</think>\n\nHi") == [("text", "Hi")]


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<th", "ink>", "</", " ", "\n", "a", "b c", "<"]),
    max_size=12,
)


@given(PIECES, st.data(), st.booleans())
def test_how_the_stream_is_split_makes_no_difference(
    pieces: list[str], data: st.DataObject, is_open: bool
) -> None:
    text = "".join(pieces)
    split = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    edges = [0, *split, len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(edges)]
    assert parse(ReasoningParser(THINK, is_open), *parts) == parse(
        ReasoningParser(THINK, is_open), text
    )


@given(PIECES, st.booleans())
def test_every_character_is_shown_or_dropped_once(pieces: list[str], is_open: bool) -> None:
    text = "".join(pieces)
    parser = ReasoningParser(THINK, is_open)
    shown = [*(each for piece in pieces for each in parser.feed(piece)), *parser.flush()]
    assert sum(len(piece.text) + piece.dropped for piece in shown) == len(text)


@pytest.mark.parametrize(
    ("texts", "tokens", "expected"),
    [
        (["<think>\n"], [], "<think>"),
        (["x"], ["</think>", "<think>"], "<think>"),
        (["<|channel|>analysis"], ["<|channel|>", "<|message|>"], HARMONY.starts[0]),
        (["<|channel>thought\n<channel|>", "<think>"], [], "<|channel>thought\n"),
        (["<seed:think>"], [], "<seed:think>"),
        (["[THINK]"], [], "[THINK]"),
        (["Here is my thought process:"], [], "Here is my thought process:"),
        (["<|im_start|>"], ["<|im_start|>"], None),
        (["<|channel|>analysis"], [], None),
    ],
)
def test_the_format_of_thoughts_is_found(
    texts: list[str], tokens: list[str], expected: str | None
) -> None:
    found = find_family(texts, tokens).reasoning
    assert (found.starts[0] if found else None) == expected
