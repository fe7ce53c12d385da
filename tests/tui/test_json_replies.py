"""Replies that are JSON: indented and highlighted, and copied as shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.app import App, ComposeResult

from chatlm.tui.chat.json_text import JsonIndenter, ReplyFormat, as_markdown
from chatlm.tui.chat.markdown import code_blocks
from chatlm.tui.chat.reply_text import ReplyText

SHORT = '{"name":"Ada", "born": 1815,"tags":[],"works":["notes",{"on":"engines"}]}'
INDENTED = """{
  "name": "Ada",
  "born": 1815,
  "tags": [],
  "works": [
    "notes",
    {
      "on": "engines"
    }
  ]
}"""

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


def test_only_white_space_changes() -> None:
    assert JsonIndenter().feed(SHORT) == INDENTED


@given(st.dictionaries(st.text(), values, min_size=1, max_size=4), st.integers(1, 5))
def test_it_equals_pythons_indentation_in_pieces_of_any_size(value: object, size: int) -> None:
    text, indenter = json.dumps(value), JsonIndenter()
    pieces = [indenter.feed(text[at : at + size]) for at in range(0, len(text), size)]
    assert "".join(piece or "" for piece in pieces) == json.dumps(value, indent=2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1] says so.",
        "[1]",
        "{name} is a placeholder",
        "[link](https://example.org)",
        '{"a": 1} is an object',
        '{"a": 1]',
        "Here: {}",
        "{ x: 1 }",
    ],
)
def test_other_replies_are_markdown(text: str) -> None:
    assert as_markdown(text) == text
    reply = ReplyFormat()
    shown = ""
    for at, character in enumerate(text):
        piece = reply.feed(character)
        shown = text[: at + 1] if piece is None else shown + piece
    assert shown == text


def test_a_reply_that_was_cut_off_is_shown_as_far_as_it_goes() -> None:
    assert as_markdown('{"a": ["b", "c') == '```json\n{\n  "a": [\n    "b",\n    "c'


def test_the_block_of_code_is_copied_as_shown() -> None:
    assert code_blocks(as_markdown(SHORT)) == [INDENTED]


class Page(App[None]):
    """Shows one reply."""

    def __init__(self, reply: ReplyText) -> None:
        super().__init__()
        self._reply = reply

    def compose(self) -> ComposeResult:
        yield self._reply


async def test_it_grows_while_it_is_written_and_falls_back_to_markdown() -> None:
    reply = ReplyText()
    app = Page(reply)
    async with app.run_test(size=(60, 24)) as pilot:
        await reply.start_stream("")
        for character in SHORT:
            await reply.append_text(character)
        await reply.end_stream()
        await pilot.pause()
        lines = [line.content.plain.rstrip() for line in reply._lines]
        assert lines[1:] == [f" {line}" for line in INDENTED.split("\n")]
        await reply.append_text(" That is *all*.")
        await reply.end_stream()
        await pilot.pause()
        text = " ".join(line.content.plain.strip() for line in reply._lines)
        assert text == f"{SHORT} That is all."
