"""The whole program in a real terminal with the real default model."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatlm.store.store import Store
from chatlm.types.replies import StopReason
from tests.end_to_end.terminal import (
    CTRL_G,
    CTRL_L,
    CTRL_Q,
    ENTER,
    ESCAPE,
    Terminal,
    has,
    tokens,
)
from tests.waiting import wait_until

STUCK = """
import time

from chatlm import data_dir, hookimpl


def load(name):
    (data_dir() / "loading-model").touch()
    while True:  # no model takes so long
        time.sleep(1)


@hookimpl
def register_engines(register):
    register("stuck", load)
"""

STORY = "Write a long story about a lighthouse."


@pytest.fixture
def open_chatlm(endless_home: Path) -> Iterator[Callable[[], Terminal]]:
    """Opens chatlm on one home, as often as wanted; none outlives the test."""
    opened: list[Terminal] = []

    def open_it() -> Terminal:
        opened.append(Terminal(endless_home))
        return opened[-1]

    yield open_it
    for terminal in opened:
        terminal.process.close(force=True)


def ask_for_a_story(terminal: Terminal) -> None:
    """Type while the model loads, and see the reply grow."""
    terminal.wait_for(has("Write a message"))
    terminal.type(STORY)
    terminal.wait_for(lambda shown: shown.count(STORY) == 1)
    terminal.type(ENTER)
    early = tokens(terminal.wait_for(lambda shown: "writing · " in shown and tokens(shown)))
    terminal.wait_for(lambda shown: tokens(shown) >= early + 5)


def test_ask_stop_continue_quit_and_find_it_again(open_chatlm: Callable[[], Terminal]) -> None:
    terminal = open_chatlm()
    ask_for_a_story(terminal)
    terminal.type(ESCAPE)
    stopped = terminal.wait_for(has("stopped", "ctrl+g continue"))
    made = tokens(stopped)
    time.sleep(0.5)
    settled = terminal.wait_for(lambda shown: shown.rstrip().endswith("stopped"))  # drawn last
    assert tokens(settled) == made, "not a token after it was stopped"

    terminal.type(CTRL_G)
    terminal.wait_for(lambda shown: "writing · " in shown and tokens(shown) >= 5)
    terminal.type(ESCAPE)
    last = terminal.wait_for(has("stopped", "ctrl+g continue"))
    assert tokens(last) > made
    opening = reply_words(last)
    terminal.type(CTRL_Q)
    assert terminal.wait_to_end() == 0

    again = open_chatlm()
    again.wait_for(has("Today", STORY[:20]))
    again.type(CTRL_L)
    again.type(ENTER)
    found = again.wait_for(has("stopped", "ctrl+g continue"))
    assert reply_words(found) == opening
    again.type(CTRL_Q)
    assert again.wait_to_end() == 0


def test_a_killed_chat_opens_with_its_half_reply_and_goes_on(
    open_chatlm: Callable[[], Terminal],
) -> None:
    terminal = open_chatlm()
    ask_for_a_story(terminal)
    made = tokens(terminal.wait_for(lambda shown: tokens(shown) >= 25))
    terminal.process.kill(signal.SIGKILL)
    terminal.wait_to_end()

    again = open_chatlm()
    again.wait_for(has("◐", STORY[:20]))
    again.type(CTRL_L)
    again.type(ENTER)
    found = again.wait_for(has("cut off when chatlm closed", "ctrl+g continue"))
    kept = reply_words(found)
    assert len(kept) >= 5, f"of {made} tokens at most the last second may be lost: {kept}"
    again.type(CTRL_G)
    grown = again.wait_for(lambda shown: "writing · " in shown and tokens(shown) >= 5)
    assert reply_words(grown)[: len(kept) - 1] == kept[:-1]
    again.type(CTRL_Q)
    assert again.wait_to_end() == 0


def test_a_polite_kill_keeps_the_reply(
    open_chatlm: Callable[[], Terminal], endless_home: Path
) -> None:
    terminal = open_chatlm()
    ask_for_a_story(terminal)
    terminal.process.kill(signal.SIGTERM)
    assert terminal.wait_to_end() == 0
    check_stopped_reply(endless_home)


def test_a_closed_terminal_keeps_the_reply(
    open_chatlm: Callable[[], Terminal], endless_home: Path
) -> None:
    terminal = open_chatlm()
    ask_for_a_story(terminal)
    terminal.process.close(force=False)
    terminal.process.wait()
    assert terminal.process.exitstatus == 128 + signal.SIGHUP
    check_stopped_reply(endless_home)


def test_quitting_does_not_wait_for_the_model(
    open_chatlm: Callable[[], Terminal], endless_home: Path
) -> None:
    (endless_home / "plugins" / "stuck.py").write_text(STUCK)
    (endless_home / "config.toml").write_text('model = "stuck:model"\n')
    terminal = open_chatlm()
    terminal.wait_for(has("Loading"))
    wait_until((endless_home / "loading-model").exists)
    terminal.type(CTRL_Q)
    assert terminal.wait_to_end() == 0


def check_stopped_reply(home: Path) -> None:
    with Store(home / "chats.db") as store:
        reply = store.conversation(1).turns[0].reply
    assert reply is not None
    assert reply.stop_reason is StopReason.CANCELLED
    assert reply.text


def reply_words(shown: str) -> list[str]:
    """The first words of the reply on the screen: between the message and the line below it."""
    chat = [line[34:].strip(" ▌") for line in shown.splitlines()]
    start = max(at for at, line in enumerate(chat) if line == STORY) + 1
    end = min(
        at for at, line in enumerate(chat) if at >= start and re.search(r"tokens? |cut", line)
    )
    return " ".join(chat[start:end]).split()[:12]


def test_incognito_works_without_the_saved_chats(chat_home: Path) -> None:
    (chat_home / "chats.db").write_text("no database at all, and longer than a header " * 30)
    broken = Terminal(chat_home)
    assert broken.wait_to_end() == 1
    private = Terminal(chat_home, "--incognito")
    try:
        private.wait_for(lambda shown: "Nothing of this run is saved" in shown)
        private.wait_for(lambda shown: "cpu" in shown)
        private.type("What is the capital of France?" + ENTER)
        private.wait_for(lambda shown: "Paris" in shown)
        private.type(CTRL_Q)
        asked = private.wait_for(lambda shown: "Leave this incognito chat?" in shown)
        assert "save it" not in asked
        private.type(ENTER)
        assert private.wait_to_end() == 0
    finally:
        private.process.close(force=True)
    assert (chat_home / "chats.db").read_text().startswith("no database at all")
