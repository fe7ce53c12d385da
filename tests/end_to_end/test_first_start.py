"""A newcomer with an empty HOME: what to download, chatting meanwhile, switching; and no hub.

Nothing is there before the first start: no model, no settings and, in the slow tests, no compiled
kernel.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatlm.config import paths
from chatlm.hub.catalogue import HubSource, WheelSource, catalogue
from tests import models, package_index
from tests.end_to_end.terminal import CTRL_Q, ENTER, ESCAPE, UP, Terminal, has
from tests.fake_hub import FakeHub, serve
from tests.gguf_files import make_folder, save_gguf

NOBODY = "http://127.0.0.1:9"
"""An address at which nothing listens."""

CHOICE = re.compile(r"(quick|balanced|best) +(\S+) +[\d.]+ [MG]B .*tokens/s +fits")


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HOME; no variable leads elsewhere, no hub and no package index is reached."""
    for name in list(os.environ):
        if name.startswith(("CHATLM_", "XDG_", "HF_", "PIP_")):
            monkeypatch.delenv(name)
    home = tmp_path / "user"
    home.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", NOBODY)
    monkeypatch.setenv("HF_ENDPOINT", NOBODY)
    monkeypatch.setenv("CHATLM_OPENAI_FIND_SERVERS", "false")  # whatever runs on this machine
    return home


@pytest.fixture
def hub(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with the models of the catalogue's first choices, all of them tiny and random."""
    file = save_gguf(tmp_path / "tiny.gguf", "llama tied", changes={"context_length": 4096})
    toy = make_folder(file)
    files = {path.name: path.read_bytes() for path in toy.glob("*.j*")}
    files["model.safetensors"] = (tmp_path / "original" / "model.safetensors").read_bytes()
    files.pop("gguf.json")
    [source] = [each for each in catalogue()[models.DEFAULT].sources if isinstance(each, HubSource)]
    hub = FakeHub({source.repository: files}, bytes_per_second=300_000)
    # what follows the tensors makes the file large enough to watch
    weights = file.read_bytes() + bytes(1_500_000)
    for entry in catalogue().values():
        if entry.first_choice and entry.gguf:
            names = entry.gguf.files[0].names
            hub.repositories[entry.gguf.repository] = dict.fromkeys(names, weights)
    with serve(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def index(
    user: Path, default_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A package index on loopback that has the small model."""
    sources = catalogue()[models.DEFAULT].sources
    [source] = [each for each in sources if isinstance(each, WheelSource)]
    weights = default_model / source.weights
    if not weights.is_file():
        pytest.skip("the default model of this run came from the hub, not from a package")
    package_index.add_wheel(tmp_path / "index", source, weights)
    with package_index.serve(tmp_path / "index") as url:
        monkeypatch.setenv("PIP_INDEX_URL", url)
        yield url


def open_terminal(folder: Path) -> Terminal:
    return Terminal(None, columns=120, lines=36, folder=folder, newcomer=True)


def has_reply(shown: str) -> bool:
    """Whether the line below a reply is there; the line of a model that is loaded has no dot."""
    return re.search(r"\d+ tokens · ", shown) is not None


def check_asked_once(user: Path, folder: Path, choice: str) -> None:
    """Check what is stored, and that the next start does not ask again."""
    [file] = user.rglob("first-start.json")
    assert json.loads(file.read_text())["choice"] == choice
    again = open_terminal(folder)
    try:
        again.wait_for(has("Today"))
        assert "Welcome" not in again.shown()
        again.type(CTRL_Q)
        assert again.wait_to_end() == 0
    finally:
        again.process.close(force=True)


def test_from_the_first_screen_to_an_answer_of_the_model_that_was_chosen(
    hub: FakeHub, user: Path, tmp_path: Path
) -> None:
    models.lend_kernels(paths.data_dir())
    choose_download_and_switch(user, tmp_path)


@pytest.mark.slow
def test_the_same_where_the_kernel_is_compiled_meanwhile(
    hub: FakeHub, user: Path, tmp_path: Path
) -> None:
    choose_download_and_switch(user, tmp_path)


def choose_download_and_switch(user: Path, folder: Path) -> None:
    terminal = open_terminal(folder)
    try:
        terminal.wait_for(has("Welcome to chatlm", "It is a toy of 135 million"))
        terminal.wait_for(has("This machine could run", "download in the background", "keep"))
        choices = CHOICE.findall(terminal.shown())
        kinds = [kind for kind, _ in choices]
        assert kinds == [each for each in ("quick", "balanced", "best") if each in kinds]
        chosen = choices[0][1]
        terminal.type(UP + ENTER)
        terminal.wait_for(lambda shown: "Welcome" not in shown and f"{chosen} · " in shown)
        terminal.type("Hello." + ENTER)
        terminal.wait_for(has("▌ Hello.", f"{chosen} · downloading", "%", "MB of"))
        terminal.wait_for(has_reply)
        terminal.wait_for(has(f"{chosen} is ready", f"/model {chosen}"))
        terminal.wait_for(lambda shown: "writing · " not in shown)
        terminal.type(f"/model {chosen}" + ENTER)
        terminal.wait_for(lambda shown: "is ready" not in shown and chosen in shown)
        terminal.type("Who are you?" + ENTER)
        answered = terminal.wait_for(
            lambda shown: has_reply(shown.partition("▌ Who are you?")[2]) and "esc" not in shown
        )
        assert chosen in answered.partition("▌ Who are you?")[2], "the reply names its model"
        terminal.type(CTRL_Q)
        assert terminal.wait_to_end() == 0
    finally:
        terminal.process.close(force=True)
    check_asked_once(user, folder, chosen)


def test_a_download_that_was_left_goes_on_at_the_next_start(hub: FakeHub, tmp_path: Path) -> None:
    models.lend_kernels(paths.data_dir())
    first = open_terminal(tmp_path)
    try:
        first.wait_for(has("This machine could run", "tokens/s"))
        chosen = CHOICE.findall(first.shown())[0][1]
        first.type(UP + ENTER)
        first.wait_for(has(f"{chosen} · downloading", "%", "MB of"))
        first.type(CTRL_Q)
        assert first.wait_to_end() == 0
    finally:
        first.process.close(force=True)
    hub.bytes_per_second = None
    again = open_terminal(tmp_path)
    try:
        again.wait_for(has(f"{chosen} is ready"))
        again.type(CTRL_Q)
        assert again.wait_to_end() == 0
    finally:
        again.process.close(force=True)
    entry = catalogue()[chosen].gguf
    assert entry is not None
    assert any("bytes=" in each and entry.repository in each for each in hub.requests), "resumed"


@pytest.mark.slow
def test_without_a_hub_it_says_so_and_the_toy_comes_from_the_package_index(
    index: str, user: Path, tmp_path: Path
) -> None:
    """As behind a mirror of Python packages."""
    terminal = open_terminal(tmp_path)
    try:
        terminal.wait_for(has("Welcome to chatlm", "It is a toy of 135 million"))
        terminal.wait_for(has("Loading smollm2-135m-instruct", "%", "you can already type"))
        terminal.wait_for(has("The model hub does not answer", "openai:MODEL@http://HOST:PORT/v1"))
        assert not CHOICE.findall(terminal.shown())
        terminal.type(ESCAPE)
        terminal.wait_for(lambda shown: "Welcome" not in shown)
        terminal.type("What is the capital of France?" + ENTER)
        terminal.wait_for(has("▌ What is the capital of France?", "Paris"))
        terminal.wait_for(lambda shown: has_reply(shown) and "esc stop" not in shown)
        terminal.type("/model qwen3:0.6b" + ENTER)
        terminal.wait_for(has("qwen3:0.6b is not on this machine", "enter download"))
        terminal.type(ENTER)
        terminal.wait_for(has("qwen3:0.6b · the download stopped", "The hub"))
        terminal.type("And of Italy?" + ENTER)
        terminal.wait_for(
            lambda shown: (
                has_reply(shown.partition("▌ And of Italy?")[2]) and "esc stop" not in shown
            )
        )
        terminal.type(CTRL_Q)
        assert terminal.wait_to_end() == 0
    finally:
        terminal.process.close(force=True)
    check_asked_once(user, tmp_path, "")
