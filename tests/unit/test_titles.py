"""Suggested titles are short, on one line, and in the message's own words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.chat.summary import MAX_TITLE_LENGTH, suggest_title
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.messages import Message
from chatlm.types.replies import Reply


def chat(message: str, reply: str = "") -> Conversation:
    turn = Turn(1, 0, Message("user", message), (Reply(1, 1, reply),))
    return Conversation(1, turns=(turn,))


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
def test_of_the_message(message: str, title: str) -> None:
    assert suggest_title(chat(message)) == title
    assert suggest_title(chat(message, "It depends.\n\n# On what")) == title


@pytest.mark.parametrize(
    ("reply", "title"),
    [
        ("\n## **Pruning** roses ##\n\nCut.", "Pruning** roses"),
        (f"# {'word ' * 30}", "Word word word word word word word word word…"),
    ],
)
def test_of_the_heading_that_the_reply_begins_with(reply: str, title: str) -> None:
    assert suggest_title(chat("Hello", reply)) == title


def test_of_an_empty_chat() -> None:
    assert suggest_title(Conversation(1)) == ""


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_gives_a_short_line(message: str, reply: str) -> None:
    title = suggest_title(chat(message, reply))
    assert len(title) <= MAX_TITLE_LENGTH + 2  # some letters are two in upper case
    assert "\n" not in title
    assert title == title.strip()
