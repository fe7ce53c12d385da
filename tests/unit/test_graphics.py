"""How images are drawn follows from the setting, the terminal's name and its answer."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pytest

from chatlm.tui import graphics
from chatlm.tui.graphics import detect_graphics, graphics_of_answer


class Terminal:
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let standard streams be a terminal; the list has its answer and records questions."""
    answers = ["\x1b[?62;4;22c"]

    def ask() -> str:
        answers.append("asked")
        return answers[0]

    monkeypatch.setattr(graphics, "_ask_terminal", ask)
    monkeypatch.setattr(sys, "__stdin__", Terminal())
    monkeypatch.setattr(sys, "__stdout__", Terminal())
    return answers


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1", "TMUX": "x"}, "blocks"),
        ({"TERM": "screen-256color", "TERM_PROGRAM": "tmux", "TMUX": "x"}, "blocks"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "sixel"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, "blocks"),
        ({"TERM": "xterm-kitty", "SSH_CONNECTION": "a b"}, "text"),
        ({"TERM": "linux"}, "text"),
        ({"TERM": "dumb"}, "text"),
        ({}, "text"),
    ],
)
def test_a_terminal_known_by_name_is_not_asked(
    asked: list[str], environment: Mapping[str, str], expected: str
) -> None:
    assert detect_graphics("auto", environment) == expected
    assert "asked" not in asked


def test_another_terminal_is_asked(asked: list[str]) -> None:
    assert detect_graphics("auto", {"TERM": "xterm-256color"}) == "sixel"
    asked[0] = "\x1b[?1;2c"
    assert detect_graphics("auto", {"TERM": "xterm-256color"}) == "blocks"
    assert asked[1:] == ["asked", "asked"]


@pytest.mark.parametrize("setting", ["kitty", "sixel", "blocks", "text"])
def test_the_setting_decides(asked: list[str], setting: str) -> None:
    assert detect_graphics(setting, {"TERM": "xterm-256color", "SSH_TTY": "x"}) == setting
    assert "asked" not in asked


def test_without_a_terminal_it_is_text_and_in_a_browser_half_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "__stdin__", None)
    assert detect_graphics("auto", {"TERM": "xterm-256color"}) == "text"
    assert detect_graphics("auto", {"TEXTUAL_DRIVER": "x:Y"}) == "blocks"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("\x1b[?62;4c", "sixel"),
        ("\x1b[?64;1;2;4;6c", "sixel"),
        ("\x1b[?4c", "blocks"),  # the first number is the terminal's class
        ("\x1b[?1;2c", "blocks"),
        ("\x1b[?62;14;44c", "blocks"),
        ("", "blocks"),
        ("h", "blocks"),
    ],
)
def test_the_answer_says_whether_there_is_sixel(answer: str, expected: str) -> None:
    assert graphics_of_answer(answer) == expected
