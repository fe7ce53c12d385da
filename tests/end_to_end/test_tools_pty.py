"""Tools in a real terminal: the card asks, and no call runs again without asking."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatlm.store.store import Store
from chatlm.types.parts import ToolResult
from chatlm.types.replies import Reply
from tests.end_to_end.terminal import CTRL_G, CTRL_Q, ENTER, ESCAPE, Terminal, has
from tests.waiting import wait_until

PLUGIN = '''
import json
import time

from chatlm import Delta, Text, ToolCall, ToolContext, data_dir, hookimpl, tool
from chatlm.testing import ScriptedEngine


def wait_for(name):
    """Wait while the file that holds this step up is there."""
    (data_dir() / f"at-{name}").touch()
    while (data_dir() / f"hold-{name}").exists():
        time.sleep(0.01)


@tool(timeout=None)
def water(plant: str, litres: int, context: ToolContext) -> str:
    """Water a plant.

    Args:
        plant: which one.
        litres: how much.
    """
    with (data_dir() / "watered").open("a") as file:
        file.write(f"{plant}\\n")
    while (data_dir() / "hold-tool").exists():
        (data_dir() / "at-tool").touch()
        context.check_cancelled()
        time.sleep(0.01)
    return f"The {plant} got {litres} litres."


def call_for(plant):
    return ToolCall("", "water", json.dumps({"plant": plant, "litres": 2}))


class Gardener(ScriptedEngine):
    """Calls the tool once, then says so."""

    def stream(self, request):
        roles = [message.role for message in request.messages]
        asked = len(roles) - roles[::-1].index("user")
        if "tool" in roles[asked:]:
            wait_for("answer")
            self.queue("The plants are fine.")
            step = "answering"
        else:
            plants = ("fern", "rose") if (data_dir() / "twice").exists() else ("fern",)
            self.queue((Text("I will see."), *map(call_for, plants)))
            step = "calling"
        for event in super().stream(request):
            yield event
            if isinstance(event, Delta) and event.text:
                wait_for(step)


@hookimpl
def register_tools(register):
    register(water)


@hookimpl
def register_engines(register):
    register("gardener", lambda name: Gardener())
'''


@pytest.fixture
def garden(home: Path) -> Path:
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "garden.py").write_text(PLUGIN)
    (home / "config.toml").write_text(
        'model = "gardener:x"\n[tools]\nenabled = true\non = ["water"]\n'
    )
    return home


@pytest.fixture
def terminals(garden: Path) -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        if terminal.process.isalive():
            terminal.type(CTRL_Q)
            terminal.wait_to_end()


def begin(garden: Path, terminals: list[Terminal]) -> Terminal:
    """Ask for the call."""
    terminal = Terminal(garden)
    terminals.append(terminal)
    terminal.wait_for(has("Write a message"))
    terminal.type("Water the fern.")
    terminal.wait_for(has("Water the fern."))
    terminal.type(ENTER)
    return terminal


def ask(garden: Path, terminals: list[Terminal]) -> Terminal:
    """Ask for the call and wait for its card."""
    terminal = begin(garden, terminals)
    terminal.wait_for(has("Allow this call?", "plant: fern", "litres: 2", "allow once"))
    return terminal


def press(terminal: Terminal, key: str, *texts: str) -> None:
    """Press a key of the card, once it takes keys, and wait for what it does."""
    terminal.wait_for(has("allow once"))
    terminal.type(key)
    terminal.wait_for(lambda shown: has(*texts)(shown) and "Allow this call?" not in shown)


def send(terminal: Terminal, message: str) -> None:
    """Send a message once the reply before it has ended, and wait for the card."""
    terminal.wait_for(has("ctrl+r regenerate"))
    terminal.type(message)
    terminal.wait_for(has(message))
    terminal.type(ENTER)
    terminal.wait_for(has("Allow this call?"))


def replay(terminal: Terminal, command: str) -> None:
    """Give the command once no card is open."""
    terminal.wait_for(has("ctrl+r regenerate"))
    terminal.type(command)
    terminal.wait_for(has(command))
    terminal.type(ENTER)


def reply(garden: Path) -> Reply:
    with Store(garden / "chats.db") as store:
        (entry,) = store.list_conversations()
        (turn,) = store.conversation(entry.id).turns
        assert turn.reply is not None
        return turn.reply


def statuses(garden: Path) -> list[str]:
    return [part.status for part in reply(garden).parts if isinstance(part, ToolResult)]


def watered(garden: Path) -> list[str]:
    file = garden / "watered"
    return file.read_text().splitlines() if file.exists() else []


def test_a_call_is_allowed_replayed_denied_and_stopped(
    garden: Path, terminals: list[Terminal]
) -> None:
    terminal = ask(garden, terminals)
    press(terminal, "a", "water  done", "The plants are fine.")
    assert watered(garden) == ["fern"]

    # a replay takes the recorded results and asks nothing; a live one asks, and runs the call
    replay(terminal, "/replay")
    terminal.wait_for(has("The same"))
    assert watered(garden) == ["fern"]
    terminal.type(ESCAPE)
    replay(terminal, "/replay --live")
    terminal.wait_for(has("Allow this call?", "again, in a replay"))
    press(terminal, "a", "The same")
    assert watered(garden) == ["fern", "fern"]
    terminal.type(ESCAPE)
    before = watered(garden)

    send(terminal, "Again.")
    press(terminal, "d", "Why not?")
    terminal.type("It rains." + ENTER)
    terminal.wait_for(lambda shown: shown.count("The plants are fine.") == 2)
    terminal.wait_for(has("water  denied"))
    send(terminal, "Once more.")
    terminal.type(ESCAPE)
    terminal.wait_for(has("water  not run", "stopped"))
    assert watered(garden) == before


def kill(terminal: Terminal) -> None:
    terminal.process.kill(signal.SIGKILL)
    terminal.wait_to_end()


def reopen(garden: Path, terminals: list[Terminal], *texts: str) -> Terminal:
    """Open the chat again and continue its reply."""
    for held in garden.glob("hold-*"):
        held.unlink()
    terminal = Terminal(garden)
    terminals.append(terminal)
    terminal.wait_for(has("Water the fern."))
    terminal.type("\x0c" + ENTER)  # the newest chat of the list
    terminal.wait_for(has("ctrl+g continue"))
    terminal.type(CTRL_G)
    terminal.wait_for(has(*texts))
    return terminal


@pytest.mark.slow
def test_killed_while_the_model_writes_the_call_is_asked_about(
    garden: Path, terminals: list[Terminal]
) -> None:
    (garden / "hold-calling").touch()
    terminal = begin(garden, terminals)
    wait_until((garden / "at-calling").exists)
    kill(terminal)
    assert (statuses(garden), watered(garden)) == ([], [])
    again = reopen(garden, terminals, "Allow this call?", "plant: fern")
    assert watered(garden) == []
    press(again, "a", "The plants are fine.")
    assert (statuses(garden), watered(garden)) == (["done"], ["fern"])


@pytest.mark.slow
def test_killed_at_the_card_the_call_is_asked_about_again(
    garden: Path, terminals: list[Terminal]
) -> None:
    kill(ask(garden, terminals))
    assert (statuses(garden), watered(garden)) == ([], [])
    again = reopen(garden, terminals, "Allow this call?", "plant: fern")
    assert "It ran before" not in again.shown()
    press(again, "a", "The plants are fine.")
    assert (statuses(garden), watered(garden)) == (["done"], ["fern"])


@pytest.mark.slow
def test_killed_while_the_tool_runs_it_is_not_run_again_without_asking(
    garden: Path, terminals: list[Terminal]
) -> None:
    (garden / "hold-tool").touch()
    terminal = ask(garden, terminals)
    press(terminal, "a", "running")
    wait_until((garden / "at-tool").exists)
    kill(terminal)
    assert (statuses(garden), watered(garden)) == (["interrupted"], ["fern"])
    again = reopen(garden, terminals, "Allow this call?", "It ran before")
    assert watered(garden) == ["fern"]
    press(again, "d", "Why not?")
    again.type(ENTER)
    again.wait_for(has("The plants are fine."))
    assert (statuses(garden), watered(garden)) == (["denied"], ["fern"])


@pytest.mark.slow
def test_killed_after_the_tool_its_result_is_kept(garden: Path, terminals: list[Terminal]) -> None:
    (garden / "hold-answer").touch()
    terminal = ask(garden, terminals)
    press(terminal, "a", "water  done")
    wait_until((garden / "at-answer").exists)
    kill(terminal)
    assert (statuses(garden), watered(garden)) == (["done"], ["fern"])
    reopen(garden, terminals, "The plants are fine.")
    assert (statuses(garden), watered(garden)) == (["done"], ["fern"])
    assert reply(garden).text == "I will see.The plants are fine."


@pytest.mark.slow
def test_killed_while_the_model_answers_the_call_does_not_run_again(
    garden: Path, terminals: list[Terminal]
) -> None:
    (garden / "hold-answering").touch()
    terminal = ask(garden, terminals)
    press(terminal, "a", "water  done")
    wait_until((garden / "at-answering").exists)
    kill(terminal)
    assert (statuses(garden), watered(garden)) == (["done"], ["fern"])
    again = reopen(garden, terminals, "fine.")
    again.wait_for(has("ctrl+r regenerate"))
    assert (statuses(garden), watered(garden)) == (["done"], ["fern"])


@pytest.mark.slow
def test_killed_between_two_calls_only_the_second_is_asked_about(
    garden: Path, terminals: list[Terminal]
) -> None:
    (garden / "twice").touch()
    terminal = ask(garden, terminals)
    terminal.wait_for(has("allow once"))
    terminal.type("a")
    terminal.wait_for(has("Allow this call?", "plant: rose"))
    kill(terminal)
    assert (statuses(garden), watered(garden)) == (["done"], ["fern"])
    again = reopen(garden, terminals, "Allow this call?", "plant: rose")
    assert "It ran before" not in again.shown()
    press(again, "a", "The plants are fine.")
    assert (statuses(garden), watered(garden)) == (["done", "done"], ["fern", "rose"])
