"""Suggested titles are short, on one line, and made of the message's own words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.titles import LONGEST, suggested, tidied


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ("Hi there! What is the capital of France?", "What is the capital of France"),
        ("hello", "Hello"),
        ("Good morning,\n\nplease translate this. Thanks!", "Translate this"),
        ("Can you please explain recursion? I am lost.", "Explain recursion"),
        ("Ok, so why is it slow?", "So why is it slow"),
        ("So many books, so little time", "So many books, so little time"),
        ("Hidden Markov models", "Hidden Markov models"),
        ("```python\nprint(1)\n```\nWhy does this print 1?", "Why does this print 1"),
        ("```js\nonly(code)\n```", "Only(code)"),
        ("Version 3.11 of Python is fast. Why?", "Version 3.11 of Python is fast"),
        ("東京の天気は？明日も。", "東京の天気は？"),
        (" \n ", ""),
        (
            "Describe the history of the lighthouse in great detail",
            "Describe the history of the lighthouse in great…",
        ),
        ("x" * 60, "X" + "x" * 48 + "…"),
    ],
)
def test_suggested(message: str, title: str) -> None:
    assert suggested(message) == title


@pytest.mark.parametrize(
    ("text", "title"),
    [
        (' "Boiling Eggs." ', "Boiling Eggs"),
        ("\n**Title: the moons**\nof Jupiter", "The moons"),
        ("“Reisen”", "Reisen"),
        ("", ""),
    ],
)
def test_tidied(text: str, title: str) -> None:
    assert tidied(text) == title


@given(st.text(max_size=200))
def test_any_text_gives_a_short_line(text: str) -> None:
    for title in (suggested(text), tidied(text)):
        assert len(title) <= LONGEST + 2  # some letters are two in upper case
        assert "\n" not in title
        assert title == title.strip()
