"""A newcomer with an empty home: what to download, chatting meanwhile, switching; and no hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatlm.hub.catalogue import shipped_text
from tests.end_to_end.terminal import CTRL_Q, ENTER, ESCAPE, Terminal, has, tokens
from tests.fake_hub import FakeHub, serve
from tests.gguf_files import save_gguf

ENTRY = """
[[models]]
name = "{name}"
first_choice = true
description = "Tiny."
kind = "chat"
licence = "MIT"
parameters = {parameters}
context_length = 4096
model_type = "llama"
gguf_architecture = "llama"

[[models.sources]]
type = "gguf"
repository = "org/{repository}"
files = [{{ quantization = "F32", names = ["tiny-F32.gguf"], bytes = {size} }}]
"""


@pytest.fixture
def hub(chat_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with the three models that the catalogue offers to a newcomer."""
    file = save_gguf(tmp_path / "tiny.gguf", "llama tied", changes={"context_length": 4096})
    # what follows the tensors makes the file large enough to watch
    weights = file.read_bytes() + bytes(1_500_000)
    names = ("tiny-a:1m", "tiny-b:2m", "tiny-c:3m")
    text = shipped_text().replace("first_choice = true\n", "")
    lines = [line for line in text.splitlines() if not line.startswith("date =")]
    lines.insert(lines.index("format = 1"), 'date = "2100-01-01"')
    entries = [
        ENTRY.format(
            name=name, parameters=number * 1_000_000, size=len(weights), repository=name[:6]
        )
        for number, name in enumerate(names, start=1)
    ]
    (chat_home / "catalogue.toml").write_text("\n".join([*lines, *entries]))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    repositories = {f"org/{name[:6]}": {"tiny-F32.gguf": weights} for name in names}
    hub = FakeHub(repositories, bytes_per_second=300_000)
    with serve(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_from_the_first_screen_to_an_answer_of_the_model_that_was_chosen(
    hub: FakeHub, chat_home: Path, tmp_path: Path
) -> None:
    terminal = Terminal(chat_home, columns=120, lines=36, folder=tmp_path, newcomer=True)
    try:
        terminal.wait_for(has("Welcome to chatlm", "It is a toy of 135 million"))
        shown = terminal.wait_for(has("quick", "balanced", "best", "tokens/s", "fits"))
        quick = next(line for line in shown.splitlines() if "quick" in line)
        assert "tiny-c:3m" in quick
        assert "1.5 MB" in quick or "MB" in quick
        terminal.wait_for(has("download in the background"))
        terminal.type("\x1b[A" + ENTER)  # up to the quick one
        terminal.wait_for(has("tiny-c:3m · "))
        terminal.type("Hello." + ENTER)
        terminal.wait_for(has("tiny-c:3m · downloading", "%", "MB of"))
        terminal.wait_for(lambda shown: tokens(shown) > 0)
        assert "Welcome" not in terminal.shown()
        terminal.wait_for(has("tiny-c:3m is ready", "/model tiny-c:3m"))
        terminal.wait_for(lambda shown: "esc stops" not in shown)
        terminal.type("/model tiny-c:3m" + ENTER)
        terminal.wait_for(lambda shown: "is ready" not in shown and "tiny-c:3m" in shown)
        terminal.type("Who are you?" + ENTER)
        terminal.wait_for(lambda shown: "▌ Who are you?" in shown and shown.count("tokens") > 1)
        terminal.type(ESCAPE + CTRL_Q)
        assert terminal.wait_to_end() == 0
    finally:
        terminal.process.close(force=True)
    assert json.loads((chat_home / "first-start.json").read_text())["choice"] == "tiny-c:3m"
    again = Terminal(chat_home, columns=120, lines=36, folder=tmp_path, newcomer=True)
    try:
        again.wait_for(has("Today"))
        assert "Welcome" not in again.shown(), "asked once"
        again.type(CTRL_Q)
        assert again.wait_to_end() == 0
    finally:
        again.process.close(force=True)


def test_a_download_that_was_left_goes_on_at_the_next_start(
    hub: FakeHub, chat_home: Path, tmp_path: Path
) -> None:
    first = Terminal(chat_home, columns=120, lines=36, folder=tmp_path, newcomer=True)
    try:
        first.wait_for(has("balanced"))
        first.type(ENTER)
        first.wait_for(has("tiny-b:2m · downloading", "%"))
        first.type(CTRL_Q)
        assert first.wait_to_end() == 0
    finally:
        first.process.close(force=True)
    hub.bytes_per_second = None
    again = Terminal(chat_home, columns=120, lines=36, folder=tmp_path, newcomer=True)
    try:
        again.wait_for(has("tiny-b:2m is ready"))
        again.type(CTRL_Q)
        assert again.wait_to_end() == 0
    finally:
        again.process.close(force=True)
    assert any("bytes=" in each and "org/tiny-b" in each for each in hub.requests), "resumed"


def test_without_a_hub_it_says_so_and_the_toy_answers(
    hub: FakeHub, chat_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where only a mirror of Python packages is reached, from which the small model came."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    terminal = Terminal(chat_home, columns=120, lines=36, folder=tmp_path, newcomer=True)
    try:
        terminal.wait_for(has("Welcome to chatlm", "The model hub does not answer"))
        terminal.wait_for(has("openai:MODEL@http://HOST:PORT/v1"))
        assert "balanced" not in terminal.shown()
        terminal.type(ESCAPE)
        terminal.wait_for(lambda shown: "Welcome" not in shown)
        terminal.type("Hello." + ENTER)
        terminal.wait_for(lambda shown: tokens(shown) > 0)
        terminal.type(ESCAPE + CTRL_Q)
        assert terminal.wait_to_end() == 0
    finally:
        terminal.process.close(force=True)
    assert json.loads((chat_home / "first-start.json").read_text())["choice"] == ""
