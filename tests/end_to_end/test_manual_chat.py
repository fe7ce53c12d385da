"""The manual is asked in a real terminal, with the real models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import models
from tests.end_to_end.terminal import CTRL_Q, ENTER, Terminal, has

QUESTION = "How do I stop a reply?"
HEADING = "Stop, continue and regenerate a reply"


def test_the_manual_answers_and_its_source_opens_in_the_editor(
    chat_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.lend(chat_home, models.embedder_model())
    arguments = tmp_path / "arguments"
    editor = tmp_path / "vim"
    editor.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {arguments}\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    terminal = Terminal(chat_home, columns=140, lines=40)
    try:
        terminal.wait_for(has("Write a message", "/rag manual"))
        terminal.type(f"/rag manual{ENTER}")
        terminal.wait_for(has("This chat now uses the index manual"))
        terminal.wait_for(lambda shown: "Opening manual" not in shown)
        terminal.type(QUESTION)
        terminal.wait_for(has(QUESTION))
        terminal.type(ENTER)
        shown = terminal.wait_for(has("passages 3 from manual", "answer quoted", "[1] guide.md"))
        assert re.search(r"Esc stops a reply and keeps its text[^\[]*\[1\]", shown)
        assert f"[1] guide.md, {HEADING}: supported" in shown
        terminal.type(f"/source 1{ENTER}")
        sources = has("Sources", f"The chat > {HEADING[:5]}", "Esc stops a reply and keeps")
        terminal.wait_for(sources)
        terminal.type(ENTER)
        terminal.wait_for(lambda _: arguments.exists() and arguments.read_text().count("\n") == 2)
        line, file = arguments.read_text().splitlines()
        assert Path(file).name == "guide.md"
        text = Path(file).read_text(encoding="utf-8").split("\n")
        assert text[int(line.removeprefix("+")) - 1] == f"### {HEADING}"
        terminal.wait_for(sources)
        terminal.type(CTRL_Q)
        assert terminal.wait_to_end() == 0
    finally:
        terminal.process.close(force=True)
