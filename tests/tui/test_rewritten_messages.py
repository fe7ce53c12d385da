"""A sent message is shown before plugins rewrite it, and taken back if one refuses it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot

from chatlm import hookimpl
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import UsageError
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.tui.app import ChatApp
from tests.tui.support import (
    chat_of,
    idle,
    make_app,
    newest,
    notices,
    plain,
    say,
    toasts,
    until,
)


class Waiting:
    """Rewrites a message, or refuses it, once the test lets it."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go = threading.Event()

    @hookimpl
    def write_message(self, text: str) -> str | UsageError:
        self.asked.set()
        assert self.go.wait(20)
        return UsageError("Not that", hint="Ask nicely.") if "no" in text else f"Please: {text}"


@pytest.fixture
def plugin() -> Iterator[Waiting]:
    waiting = Waiting()
    yield waiting
    waiting.go.set()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "chats.db")


def app(plugin: Waiting, store: Store) -> ChatApp:
    return make_app(ScriptedEngine(*["Yes."] * 4), store, plugins=PluginHost([("p", plugin)]))


def shown(pilot: Pilot[None]) -> list[str]:
    """The messages of the open chat, as they are drawn."""
    return [plain(message) for message in chat_of(pilot).view.query("TurnView > .user")]


def titles(store: Store) -> list[str]:
    return [chat.title for chat in store.list_conversations()]


async def test_a_message_is_shown_while_a_plugin_rewrites_it(plugin: Waiting, store: Store) -> None:
    async with app(plugin, store).run_test() as pilot:
        await say(pilot, "Hello")
        await until(pilot, plugin.asked.is_set)
        await until(pilot, lambda: shown(pilot) == ["Hello"])
        assert (chat_of(pilot).composer.text, titles(store)) == ("", ["Hello"])
        plugin.go.set()
        await idle(pilot)
        assert newest(pilot).turn.user.text == "Please: Hello"
        assert "rewritten by a plugin" in shown(pilot)[0]


async def test_a_refused_first_message_goes_back_to_the_composer(
    plugin: Waiting, store: Store
) -> None:
    async with app(plugin, store).run_test() as pilot:
        await say(pilot, "no")
        await until(pilot, lambda: shown(pilot) == ["no"])
        await pilot.press(*"more")
        plugin.go.set()
        await idle(pilot)
        assert (shown(pilot), titles(store)) == ([], [])
        assert notices(pilot) == ["Not that\nAsk nicely."]
        assert chat_of(pilot).composer.text == "no\nmore"
        assert chat_of(pilot).conversation_id is None
        assert chat_of(pilot).view.query("Welcome")
        assert toasts(pilot) == ["Not that\nAsk nicely."]
        await say(pilot, "Hello")
        await idle(pilot)
        assert titles(store) == ["Hello"]


async def test_a_refused_message_is_taken_back_and_the_turn_before_it_can_be_continued(
    plugin: Waiting, store: Store
) -> None:
    async with app(plugin, store).run_test() as pilot:
        plugin.go.set()
        await say(pilot, "Hello")
        await idle(pilot)
        await say(pilot, "no")
        await idle(pilot)
        assert len(shown(pilot)) == 1
        assert chat_of(pilot).composer.text == "no"
        chat_of(pilot).composer.text = ""
        chat_of(pilot).turns.regenerate()
        await idle(pilot)
        assert len(newest(pilot).turn.replies) == 2


async def test_a_refused_edit_goes_back_to_the_original_chat(plugin: Waiting, store: Store) -> None:
    async with app(plugin, store).run_test() as pilot:
        plugin.go.set()
        await say(pilot, "Hello")
        await idle(pilot)
        original = chat_of(pilot).conversation_id
        plugin.go.clear()
        plugin.asked.clear()
        newest(pilot).focus()
        await pilot.press("e")
        await say(pilot, "no")
        await until(pilot, plugin.asked.is_set)
        await until(pilot, lambda: shown(pilot) == ["no"])
        assert chat_of(pilot).conversation_id != original
        plugin.go.set()
        await idle(pilot)
        assert chat_of(pilot).conversation_id == original
        assert len(shown(pilot)) == 1 and "Hello" in shown(pilot)[0]
        assert titles(store) == ["Hello"]


async def test_the_draft_stays_on_disk_until_the_message_is(
    plugin: Waiting, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, go = threading.Event(), threading.Event()
    add_turn = store.add_turn

    def slow(*arguments: object) -> object:
        assert go.wait(20)
        stored.set()
        return add_turn(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "add_turn", slow)
    async with app(plugin, store).run_test() as pilot:
        plugin.go.set()
        await pilot.press(*"Hello")
        await until(pilot, lambda: "Hello" in store.draft(None))
        await pilot.press("enter", *"more")
        chat_of(pilot).save_draft()
        await until(pilot, lambda: not chat_of(pilot).has_pending_writes)
        assert "Hello" in store.draft(None) and not stored.is_set()
        go.set()
        await until(pilot, lambda: "Hello" not in store.draft(None))
        await idle(pilot)
        assert titles(store) == ["Hello"]
