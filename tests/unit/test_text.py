"""Text is safe to draw: nothing that a terminal would obey is left, and nothing else changes."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.text import dump_json, escape_controls, one_line

ANY_TEXT = st.text(st.characters(exclude_categories=()))
DIRECTION = {
    *"\u061c\u200e\u200f",
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
}


def dangerous(text: str) -> set[str]:
    """The characters a terminal obeys, but for newline and tab."""
    controls = {c for c in text if unicodedata.category(c) in ("Cc", "Cs")} - {"\n", "\t"}
    return controls | (set(text) & (DIRECTION | {"\u2028", "\u2029", "\ufeff"}))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 世界 👩‍👩‍👧 e\u0301\n\tend", "plain é 世界 👩‍👩‍👧 e\u0301\n\tend"),
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("\x1b]52;c;aGk=\x07", "␛]52;c;aGk=␇"),
        ("a\x00b\x08c\x7f", "a␀b␈c␡"),
        ("\x9b2J", "⟨9B⟩2J"),
        ("line\r\nline\rover", "line\nlineover"),
        ("abc\u202etxt.exe", "abc⟨U+202E⟩txt.exe"),
        ("\ud800", "\ufffd"),
        ("[bold]markup[/bold] :smile:", "[bold]markup[/bold] :smile:"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


@given(ANY_TEXT)
def test_nothing_dangerous_is_left_and_once_is_enough(text: str) -> None:
    shown = escape_controls(text)
    assert not dangerous(shown)
    assert escape_controls(shown) == shown
    shown.encode()
    if not dangerous(text) and not re.search("[\U000e0000-\U000e007f]", text):
        assert shown == text


@given(ANY_TEXT, ANY_TEXT)
def test_a_stream_can_be_cleaned_piece_by_piece(first: str, second: str) -> None:
    assert escape_controls(first) + escape_controls(second) == escape_controls(first + second)


@given(ANY_TEXT, st.integers(0, 30))
def test_one_line_is_one_short_safe_line(text: str, width: int) -> None:
    line = one_line(text, width)
    assert len(line) <= max(width, 1)
    assert "\n" not in line and "\t" not in line
    assert not dangerous(line)


def test_one_line_cuts_with_an_ellipsis() -> None:
    assert one_line("  a\n b  ", 10) == "a b"
    assert one_line("abcdef", 4) == "abc…"
    assert one_line("abcd", 4) == "abcd"


@given(st.recursive(ANY_TEXT, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner)))
def test_json_is_safe_and_gives_the_value_back(value: object) -> None:
    written = dump_json(value)
    assert not dangerous(written)
    assert json.loads(written) == joined(value)


def joined(value: object) -> object:
    """The value as JSON has it: a pair of surrogates is one character."""
    if isinstance(value, str):
        return json.loads(json.dumps(value))
    if isinstance(value, list):
        return [joined(item) for item in value]
    if isinstance(value, dict):
        return {joined(key): joined(item) for key, item in value.items()}
    return value


def test_the_list_of_naughty_strings(shared_data: Path) -> None:
    strings = json.loads((shared_data / "security" / "blns.json").read_text(encoding="utf-8"))
    assert len(strings) > 500
    for text in strings:
        assert not dangerous(escape_controls(text))
        assert json.loads(dump_json(text)) == text
