"""What is being done is told in a line for each step."""

from __future__ import annotations

import sys

import pytest

from chatlm.plugin_kit.progress import status_lines

STEPS = [
    "m: loading",
    *(f"m: downloading {done} %" for done in range(0, 101)),
    "m: ready",
    "m: ready",
]


def printed(capsys: pytest.CaptureFixture[str], *texts: str) -> str:
    report = status_lines()
    for text in texts:
        report(text)
    return capsys.readouterr().err


def test_a_file_gets_every_tenth_percentage(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *STEPS).splitlines()
    shown = [f"m: downloading {done} %" for done in range(0, 101, 10)]
    assert lines == ["m: loading", *shown, "m: ready"]


def test_a_terminal_rewrites_the_percentage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    text = printed(capsys, "a 1 %", "a 2 %", "b 1 %", "evil \x1b[2J")
    assert text.startswith("a 1 %\n\x1b[1A\x1b[2Ka 2 %\nb 1 %\n")
    assert "\x1b[2J" not in text
