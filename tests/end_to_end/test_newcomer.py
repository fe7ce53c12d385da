"""A newcomer's first hour in a real terminal with the real default model, step by step."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatlm.store.store import Store
from tests.end_to_end.terminal import (
    CTRL_G,
    CTRL_L,
    CTRL_Q,
    CTRL_R,
    CTRL_S,
    ENTER,
    ESCAPE,
    LEFT,
    RIGHT,
    TAB,
    UP,
    Terminal,
    has,
    tokens,
)

STORY = "Write a long story about a lighthouse."
POEM = "Write a long story about a submarine."


@pytest.fixture
def terminal(chat_home: Path, tmp_path: Path) -> Iterator[Terminal]:
    (chat_home / "config.toml").write_text('fast = "off"\n')  # time enough to interrupt a reply
    opened = Terminal(chat_home, columns=120, lines=36, folder=tmp_path, fresh=True)
    yield opened
    opened.process.close(force=True)


def test_first_run_to_reopening(terminal: Terminal, chat_home: Path, tmp_path: Path) -> None:
    first_run(terminal)
    ask_and_stop(terminal)
    go_on(terminal)
    regenerate_and_flip(terminal)
    edit_in_a_fork(terminal)
    fork(terminal)
    search(terminal)
    export(terminal, tmp_path)
    terminal.type(CTRL_Q)
    assert terminal.wait_to_end() == 0
    check_what_is_stored(chat_home)
    reopen(chat_home, tmp_path)


def first_run(terminal: Terminal) -> None:
    """A title, suggestions, keys; and typing works at once."""
    terminal.wait_for(
        has("Chat with a model", "Try one of these", "No chats yet", "f1", "New chat")
    )
    terminal.type("?")
    terminal.wait_for(lambda shown: "│ ?" in shown)
    terminal.type("\x7f/")
    terminal.wait_for(has("/continue", "continue the reply"))
    terminal.type(ESCAPE)
    terminal.wait_for(lambda shown: "/continue" not in shown)
    terminal.type("\x7f")


def ask_and_stop(terminal: Terminal) -> None:
    terminal.type(STORY)
    terminal.wait_for(has(STORY))
    terminal.type(ENTER)
    writing(terminal)
    terminal.type(ESCAPE)
    terminal.wait_for(has("stopped", "ctrl+g continue"))


def go_on(terminal: Terminal) -> None:
    before = tokens(terminal.shown())
    terminal.type(CTRL_G)
    writing(terminal)
    terminal.type(ESCAPE)
    terminal.wait_for(lambda shown: "ctrl+g continue" in shown and tokens(shown) > before)


def regenerate_and_flip(terminal: Terminal) -> None:
    terminal.type(CTRL_R)
    writing(terminal)
    terminal.type(ESCAPE)
    second = terminal.wait_for(has("2/2", "ctrl+g continue"))
    terminal.type(TAB)
    terminal.wait_for(has("c copy", "e edit"))
    terminal.type(LEFT)
    first = terminal.wait_for(has("1/2"))
    assert first != second
    terminal.type(RIGHT)
    terminal.wait_for(has("2/2"))


def edit_in_a_fork(terminal: Terminal) -> None:
    terminal.type("e")
    terminal.wait_for(has("editing message 1"))
    terminal.type("\x01" + "\x0b")  # to the line's start, delete to its end
    terminal.wait_for(lambda shown: shown.count(STORY) == 2)  # title or list, and the transcript
    terminal.type(POEM + ENTER)
    terminal.wait_for(has(f"▌ {POEM}"))
    writing(terminal)
    terminal.type(ESCAPE)
    shown = terminal.wait_for(has("stopped", "ctrl+g continue"))
    assert f"▌ {STORY}" not in shown


def fork(terminal: Terminal) -> None:
    terminal.type("/fork" + ENTER)
    terminal.wait_for(has("This is a fork"))
    terminal.wait_for(has("submarine. (fork)", f"▌ {POEM}"))


def search(terminal: Terminal) -> None:
    terminal.type(CTRL_S)
    terminal.type("lighthouse")
    terminal.wait_for(lambda shown: len(re.findall("lighthouse", shown)) >= 2)
    terminal.type(ENTER)
    terminal.wait_for(has(f"▌ {STORY}", "c copy"))
    terminal.type(ESCAPE)
    terminal.wait_for(lambda shown: "c copy" not in shown)


def export(terminal: Terminal, folder: Path) -> None:
    terminal.type("/export story.md" + ENTER)
    terminal.wait_for(has("Written to story.md"))
    text = (folder / "story.md").read_text()
    assert STORY in text
    assert "## Assistant" in text
    terminal.type("/export story.jsonl" + ENTER)
    terminal.wait_for(has("Written to story.jsonl"))
    chat = json.loads((folder / "story.jsonl").read_text())
    assert len(chat["turns"][0]["replies"]) == 2


def check_what_is_stored(home: Path) -> None:
    with Store(home / "chats.db") as store:
        chats = {chat.title: store.conversation(chat.id) for chat in store.list_conversations()}
    original = min(chats.values(), key=lambda chat: chat.id)
    assert original.turns[0].user.text == STORY, "editing lost nothing"
    assert len(original.turns[0].replies) == 2
    forks = [chat for chat in chats.values() if chat.id != original.id]
    assert [chat.turns[0].user.text for chat in forks] == [POEM, POEM]


def reopen(home: Path, folder: Path) -> None:
    again = Terminal(home, columns=120, lines=36, folder=folder)
    try:
        again.wait_for(has("Today", STORY[:15]))
        again.type(CTRL_L)
        again.type(ENTER)
        again.wait_for(has(f"▌ {POEM}", "ctrl+g continue"))
        again.type(UP)  # the composer recalls the last message
        again.wait_for(lambda shown: f"│ {POEM}" in shown)
        again.type(CTRL_Q)
        assert again.wait_to_end() == 0
    finally:
        again.process.close(force=True)


def writing(terminal: Terminal) -> None:
    """A reply is being written, and grows."""
    early = tokens(terminal.wait_for(lambda shown: "writing · " in shown and tokens(shown)))
    terminal.wait_for(lambda shown: tokens(shown) >= early + 5)
