"""A chat that is in memory only: it leaves no trace, and leaving it asks first."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot

from chatlm import hookimpl
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import StoreError
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.tui.screens.dialogs import LeaveIncognitoScreen
from chatlm.types.replies import StopReason
from tests.tui.cards import CardApp, SnapCompare, both_sizes, hint
from tests.tui.support import (
    StillEngine,
    chat_of,
    idle,
    line,
    make_app,
    newest,
    notices,
    plain,
    rows,
    say,
    toasts,
    until,
)
from tests.tui.test_chats import WIDE, store_with


async def leaves(pilot: Pilot[None], key: str, answer: str) -> None:
    """Press a key that takes an incognito chat away, and answer the question."""
    await pilot.press(key)
    await until(pilot, lambda: isinstance(pilot.app.screen, LeaveIncognitoScreen))
    await pilot.press(answer)
    await until(pilot, lambda: not isinstance(pilot.app.screen, LeaveIncognitoScreen))


async def test_an_incognito_chat_is_marked_and_leaves_nothing() -> None:
    store = store_with("Saved")
    async with make_app(ScriptedEngine("Secret."), store).run_test(size=WIDE) as pilot:
        await pilot.press("ctrl+t")
        title = plain(chat_of(pilot).view.header.query_one("#title"))
        assert title == "incognito, not saved · New chat"
        assert chat_of(pilot).composer.has_class("-incognito")
        await say(pilot, "Psst")
        await idle(pilot)
        assert "Secret." in plain(newest(pilot))
        assert rows(pilot) == ["Today", "Saved"]
        await leaves(pilot, "ctrl+n", "enter")
        assert not chat_of(pilot).composer.has_class("-incognito")
    assert [chat.title for chat in store.list_conversations()] == ["Saved"]
    assert store.search("Psst") == []


async def test_an_incognito_chat_that_is_left_is_announced_as_deleted() -> None:
    class Forgets:
        @hookimpl
        def chat_deleted(self, conversation_id: int) -> None:
            deleted.append(conversation_id)

    deleted: list[int] = []
    store, host = store_with("Saved"), PluginHost([("forgets", Forgets())])
    app = make_app(ScriptedEngine("Secret."), store, incognito=True, plugins=host)
    async with app.run_test() as pilot:
        await say(pilot, "Psst")
        await idle(pilot)
        chat = chat_of(pilot).conversation_id
        assert chat is not None and chat > 1, "chat 1 is a saved one"
        await leaves(pilot, "ctrl+n", "enter")
        await until(pilot, lambda: deleted)
    assert deleted == [chat]


async def test_leaving_an_incognito_chat_stops_its_reply() -> None:
    engine = StillEngine("One ", "two ", "three", stand_after=1)
    async with make_app(engine, incognito=True).run_test() as pilot:
        await say(pilot, "Psst")
        await until(pilot, lambda: "One" in plain(newest(pilot)))
        await leaves(pilot, "ctrl+n", "enter")
        await idle(pilot)
        assert chat_of(pilot).view.newest_view is None
        assert notices(pilot) == []


async def test_the_user_can_stay_in_an_incognito_chat() -> None:
    store = store_with("Saved")
    app = make_app(ScriptedEngine("Secret.", "More."), store, incognito=True)
    async with app.run_test(size=WIDE) as pilot:
        await say(pilot, "Psst")
        await idle(pilot)
        for key in ("ctrl+n", "ctrl+t", "ctrl+q"):
            await leaves(pilot, key, "escape")
            assert "Secret." in plain(newest(pilot))
        await pilot.press("ctrl+l", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, LeaveIncognitoScreen))
        assert "only in memory" in plain(pilot.app.screen)
        await pilot.press("a", "k", "escape")
        chat_of(pilot).composer.focus()
        await say(pilot, "Go on")
        await idle(pilot)
        assert "More." in plain(newest(pilot))
    assert len(store.list_conversations()) == 1


async def test_an_incognito_chat_can_be_saved_when_it_is_left(tmp_path: Path) -> None:
    store = Store(tmp_path / "chats.db")
    store.add_turn(store.create_conversation("Other").id, "About Other")
    engine = StillEngine("One ", "two", stand_after=1)
    async with make_app(engine, store, incognito=True).run_test(size=WIDE) as pilot:
        engine.go.set()
        await say(pilot, "Psst")
        await idle(pilot)
        original = chat_of(pilot).conversation_id
        await pilot.press("tab", "f")
        await until(pilot, lambda: chat_of(pilot).conversation_id != original)
        engine.go.clear()
        await say(pilot, "More")
        await until(pilot, lambda: line(pilot).startswith("writing"))
        chat_of(pilot).composer.text = "half a thought"
        await pilot.press("ctrl+l", "home")
        await leaves(pilot, "enter", "ctrl+s")
        await until(pilot, lambda: chat_of(pilot).saved_conversation_id == 1)
        await until(pilot, lambda: len(rows(pilot)) == 4)
        await idle(pilot)
    first, fork = store.conversation(2), store.conversation(3)
    assert (first.turns[0].user.text, fork.forked_from) == ("Psst", first.id)
    reply = fork.turns[1].reply
    assert reply is not None
    assert (reply.text, reply.stop_reason) == ("One ", StopReason.CANCELLED)
    assert store.provenance(fork.turns[0].replies[0].id) is not None
    assert "half a thought" in store.draft(fork.id)
    store.close()


async def test_where_nothing_can_be_saved_it_is_not_offered() -> None:
    app = make_app(ScriptedEngine("Secret."), incognito=True)
    async with app.run_test() as pilot:
        await say(pilot, "Psst")
        await idle(pilot)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(pilot.app.screen, LeaveIncognitoScreen))
        assert "save" not in hint(pilot)
        await pilot.press("ctrl+s")
        assert isinstance(pilot.app.screen, LeaveIncognitoScreen)


async def test_saving_that_fails_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "chats.db")

    def broken(*_: object) -> None:
        raise StoreError("The disk is full.")

    monkeypatch.setattr(store, "add_conversation", broken)
    async with make_app(ScriptedEngine("Secret."), store, incognito=True).run_test() as pilot:
        await say(pilot, "Psst")
        await idle(pilot)
        await leaves(pilot, "ctrl+n", "ctrl+s")
        await until(pilot, lambda: "The disk is full." in toasts(pilot))
        assert "Secret." in plain(newest(pilot))
    store.close()


async def test_quitting_twice_leaves_an_incognito_chat() -> None:
    app = make_app(ScriptedEngine("Secret."), incognito=True)
    async with app.run_test() as pilot:
        await say(pilot, "Psst")
        await idle(pilot)
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(pilot.app.screen, LeaveIncognitoScreen))
        assert app._exit is False
        await pilot.press("ctrl+q")
        await until(pilot, lambda: app._exit)


async def test_an_empty_incognito_chat_is_left_without_a_question() -> None:
    async with make_app(incognito=True).run_test() as pilot:
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not chat_of(pilot).incognito)


@both_sizes
def test_picture_of_the_question(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    """It says what would be lost and offers three choices."""
    assert snap_compare(CardApp(LeaveIncognitoScreen(can_save=True)), terminal_size=size)
