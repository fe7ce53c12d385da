"""A message that was sent is on disk, whatever ends the program while a plugin rewrites it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chatlm.store.store import Store
from chatlm.types.conversations import Turn
from tests.end_to_end.terminal import CTRL_L, CTRL_Q, CTRL_R, ENTER, Terminal, has
from tests.waiting import wait_until

WAITING = """
import time

from chatlm import data_dir, hookimpl
from chatlm.testing import ScriptedEngine


@hookimpl
def register_engines(register):
    register("parrot", lambda name: ScriptedEngine("It is noon."))


@hookimpl
def write_message(text):
    (data_dir() / "rewriting").touch()
    while not (data_dir() / "go").exists():
        time.sleep(0.01)
    return f"Answer briefly: {text}"
"""

QUESTION = "What time is it?"


@pytest.fixture
def waiting_home(home: Path) -> Path:
    """A home whose plugin rewrites no message before the file `go` is there."""
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "waiting.py").write_text(WAITING)
    (home / "config.toml").write_text('model = "parrot:green"\n')
    return home


def turns(home: Path) -> list[Turn]:
    with Store(home / "chats.db") as store:
        chats = [store.conversation(chat.id) for chat in store.list_conversations()]
    return [turn for chat in chats for turn in chat.turns]


def send(home: Path) -> Terminal:
    """Send a message in the UI and wait until it is shown and the plugin rewrites it."""
    terminal = Terminal(home)
    terminal.wait_for(has("Write a message"))
    terminal.type(QUESTION)
    terminal.wait_for(has(QUESTION))
    terminal.type(ENTER)
    wait_until((home / "rewriting").exists)
    terminal.wait_for(lambda shown: QUESTION in shown and "Write a message" in shown)
    return terminal


def test_a_killed_ui_keeps_the_message_which_is_answered_when_it_is_opened_again(
    waiting_home: Path,
) -> None:
    terminal = send(waiting_home)
    terminal.process.kill(signal.SIGKILL)
    terminal.wait_to_end()
    (turn,) = turns(waiting_home)
    assert (turn.display_text, turn.replies) == (QUESTION, ())

    (waiting_home / "go").touch()
    again = Terminal(waiting_home)
    try:
        again.wait_for(has("◐", QUESTION))
        again.type(CTRL_L)
        again.type(ENTER)
        again.wait_for(has("ctrl+r answer"))
        again.type(CTRL_R)
        again.wait_for(has("It is noon.", "rewritten by a plugin"))
        again.type(CTRL_Q)
        assert again.wait_to_end() == 0
    finally:
        again.process.close(force=True)
    (turn,) = turns(waiting_home)
    assert (turn.user.text, turn.raw_input) == (f"Answer briefly: {QUESTION}", QUESTION)


def test_quitting_while_a_plugin_rewrites_the_message_keeps_it(waiting_home: Path) -> None:
    terminal = send(waiting_home)
    try:
        terminal.type(CTRL_Q)
        assert [turn.display_text for turn in turns(waiting_home)] == [QUESTION]
        (waiting_home / "go").touch()
        assert terminal.wait_to_end() == 0
    finally:
        terminal.process.close(force=True)
    assert [turn.display_text for turn in turns(waiting_home)] == [QUESTION]


def test_a_killed_question_of_the_command_line_is_kept(waiting_home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "chatlm", "ask", QUESTION],
        env={**os.environ, "CHATLM_HOME": str(waiting_home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    wait_until((waiting_home / "rewriting").exists)
    process.kill()
    process.wait()
    assert [turn.display_text for turn in turns(waiting_home)] == [QUESTION]
