"""What a plugin stores with a chat is kept, however early in its first turn."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatlm import Sampling, SlashCommand, Ui, hookimpl
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.tui.chat.controller import ChatController
from chatlm.tui.chat.status import StatusBar
from chatlm.types.conversations import Turn
from tests.tui.support import chat_of, idle, make_app, newest, plain, say, until
from tests.waiting import PATIENCE


class Keeps:
    """Stores something in every turn, when it has ended."""

    def __init__(self) -> None:
        self.ui: Any = None
        self.turns = 0

    @hookimpl
    def screen_opened(self, ui: Ui) -> None:
        self.ui = ui

    @hookimpl
    def turn_finished(self, turn: Turn) -> None:
        self.ui.set_state(**{f"turn {turn.position}": turn.user.text})
        self.turns += 1


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "chats.db")


def kept(store: Store, chat_id: int | None) -> Any:
    assert chat_id is not None
    return store.header(chat_id).plugin_data.get("keeps")


async def answer_on_a_slow_screen(
    chat: ChatController, text: str, answered: Callable[[], bool]
) -> None:
    """Send a message and hold what its turn draws until the whole turn is stored."""
    async with chat.state.draw_lock:
        chat.composer.text = text
        chat.composer.action_send()
        deadline = time.monotonic() + PATIENCE
        while not answered():  # a pilot would wait for what is held
            assert time.monotonic() < deadline, "this state never came"
            await asyncio.sleep(0.01)


async def test_state_set_when_the_first_turn_has_ended_is_kept(store: Store) -> None:
    plugin = Keeps()
    app = make_app(ScriptedEngine("Yes."), store, plugins=PluginHost([("keeps", plugin)]))
    async with app.run_test() as pilot:
        await until(pilot, lambda: plugin.ui is not None)
        await answer_on_a_slow_screen(chat_of(pilot), "Hello", lambda: plugin.turns == 1)
        await idle(pilot)
        await until(pilot, lambda: kept(store, 1) == {"turn 0": "Hello"})


class Labels:
    """Shows its state in the status bar: of each chat that is opened, and after each change."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.may_go_on = threading.Event()

    @hookimpl
    def chat_shown(self, ui: Ui) -> None:
        label = ui.state.get("label", "none")
        if not self.shown:
            self.shown.append("reads")
            assert self.may_go_on.wait(PATIENCE)
        ui.show_status(f"label {label}")
        self.shown.append(label)

    @hookimpl
    def register_slash_commands(self, register: Callable[[SlashCommand], None]) -> None:
        register(SlashCommand("label", "label this chat", self.label, "NAME"))

    def label(self, ui: Ui, argument: str) -> None:
        ui.set_state(label=argument)
        ui.show_status(f"label {argument}")


async def test_a_status_of_state_that_was_read_too_early_does_not_stay(store: Store) -> None:
    plugin = Labels()
    app = make_app(ScriptedEngine(), store, plugins=PluginHost([("labels", plugin)]))
    async with app.run_test(size=(120, 30)) as pilot:
        bar = app.chat_screen.query_one(StatusBar)
        await until(pilot, lambda: plugin.shown == ["reads"])
        await say(pilot, "/label red")
        await until(pilot, lambda: "label red" in plain(bar))
        plugin.may_go_on.set()
        await until(pilot, lambda: plugin.shown == ["reads", "none", "red"])
        await until(pilot, lambda: not app.chat_screen.plugin_actions.busy)
        assert "label red" in plain(bar)
        await say(pilot, "/label blue")
        await until(pilot, lambda: "label blue" in plain(bar))
        assert plugin.shown == ["reads", "none", "red"], "nothing was running then"


async def test_state_set_when_an_edited_turn_has_ended_is_kept_in_the_fork(store: Store) -> None:
    plugin = Keeps()
    app = make_app(ScriptedEngine(*["Yes."] * 3), store, plugins=PluginHost([("keeps", plugin)]))
    async with app.run_test() as pilot:
        await until(pilot, lambda: plugin.ui is not None)
        chat = chat_of(pilot)
        await say(pilot, "Hello")
        await idle(pilot)
        await until(pilot, lambda: kept(store, 1) == {"turn 0": "Hello"})
        newest(pilot).focus()
        await pilot.press("e")
        await answer_on_a_slow_screen(chat, "Goodbye", lambda: plugin.turns == 2)
        await idle(pilot)
        assert chat.conversation_id == 2
        await until(pilot, lambda: kept(store, 2) == {"turn 0": "Goodbye"})
        assert kept(store, 1) == {"turn 0": "Hello"}


CHANGES: dict[str, Callable[[Any], None]] = {
    "plugin_data": lambda edits: edits.set_plugin_data("keeps", {"early": 1}),
    "system": lambda edits: edits.set_system("Be brief."),
    "sampling": lambda edits: edits.set_sampling(Sampling(temperature=0.5)),
    "disabled_plugins": lambda edits: edits.set_disabled_plugins(["other"]),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_made_while_the_first_message_is_stored_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    storing, go = threading.Event(), threading.Event()
    add_turn = store.add_turn

    def slow(*arguments: Any) -> Turn:
        storing.set()
        assert go.wait(20)
        return add_turn(*arguments)

    monkeypatch.setattr(store, "add_turn", slow)
    async with make_app(ScriptedEngine("Yes."), store).run_test() as pilot:
        await say(pilot, "Hello")
        await until(pilot, storing.is_set)
        CHANGES[name](chat_of(pilot).edits)
        expected = getattr(chat_of(pilot).conversation, name)
        assert expected
        go.set()
        await idle(pilot)
        await until(pilot, lambda: not chat_of(pilot).has_pending_writes)
        assert getattr(store.header(1), name) == expected
