"""A paste is one text, whatever is in it; no part of it presses a key."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from textual import events

from chatlm.tui.clipboard import ESCAPE, ESCAPE_PLACEHOLDER, PASTE_END, PASTE_START, PasteParser
from tests.tui.support import hostile_texts

PIECES = st.sampled_from(
    [
        ESCAPE,
        "\x1b[200~",
        "\x1b[20",
        "\x1b]0;t\x07",
        "\r/quit\r",
        "\x11",
        "a",
        "~",
        ESCAPE_PLACEHOLDER,
        "é",
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join)


def heard(parser: PasteParser, typed: str, sizes: list[int]) -> list[object]:
    """Parse the input in chunks of these sizes, repeated to its end."""
    messages: list[object] = []
    at = turn = 0
    while at < len(typed):
        size = sizes[turn % len(sizes)]
        messages += parser.feed(typed[at : at + size])
        at, turn = at + size, turn + 1
    return messages


def pasted(text: str) -> str:
    """The text as the parser returns it, which drops NUL."""
    return text.replace("\0", "").replace(ESCAPE_PLACEHOLDER, "\ufffd")


@given(TEXTS, TEXTS, st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_any_text_comes_as_one_paste(one: str, two: str, sizes: list[int]) -> None:
    if PASTE_END in one or PASTE_END in two:
        return  # only the terminal can tell that it did not end there
    parser = PasteParser()
    messages = heard(
        parser, f"x{PASTE_START}{one}{PASTE_END}y{PASTE_START}{two}{PASTE_END}z\x1b[A", sizes
    )
    keys = [event.key for event in messages if isinstance(event, events.Key)]
    pastes = [event.text for event in messages if isinstance(event, events.Paste)]
    assert keys == ["x", "y", "z", "up"]
    assert pastes == [pasted(one), pasted(two)]
    assert len(messages) == 6


def test_hostile_texts_come_whole(shared_data: Path) -> None:
    parser = PasteParser()
    for text in hostile_texts(shared_data):
        (paste,) = heard(parser, f"{PASTE_START}\x1b{text}\x1b{PASTE_END}", [4096])
        assert isinstance(paste, events.Paste)
        assert paste.text == pasted(f"\x1b{text}\x1b")


def test_what_is_typed_is_not_held_back() -> None:
    parser = PasteParser()
    for sequence, key in (("a", "a"), ("\r", "enter"), ("\x1b[A", "up"), ("\x1b[5~", "pageup")):
        (event,) = heard(parser, sequence, [9])
        assert isinstance(event, events.Key)
        assert event.key == key
