"""Mishaps that people met once; each must not come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from chatlm.tui.chat.status import StatusBar
from chatlm.tui.chat.turn_column import Suggestion
from chatlm.types.messages import ContextPolicy
from tests.tui.support import app_of, chat_of, idle, make_app, newest, plain, say, toasts, until


async def test_undo_in_a_tall_composer() -> None:
    async with make_app().run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        for _ in range(12):
            await pilot.press(*"line", "ctrl+j")
        whole = chat_of(pilot).composer.text
        await pilot.press(*["ctrl+z"] * 14)
        assert len(chat_of(pilot).composer.text) < len(whole)
        await pilot.press(*["ctrl+y"] * 14)
        assert chat_of(pilot).composer.text == whole


async def test_a_new_chats_draft_is_there_at_the_next_start() -> None:
    store = Store(None)
    async with make_app(store=store).run_test() as pilot:
        await pilot.press(*"half a thought")
        await until(pilot, lambda: "half a thought" in store.draft(None))
    async with make_app(store=store).run_test() as pilot:
        await until(pilot, lambda: chat_of(pilot).composer.text == "half a thought")


async def test_a_draft_goes_with_the_new_chat() -> None:
    store = Store(None)
    async with make_app(ScriptedEngine("Yes."), store).run_test() as pilot:
        await say(pilot, "Hello")
        await pilot.press(*"next")
        await idle(pilot)
        await pilot.press("ctrl+n")
        await pilot.pause()
        assert chat_of(pilot).composer.text == ""
        assert "next" in store.draft(store.list_conversations()[0].id)


@pytest.mark.parametrize("file", ["x.m", "~nobody/x.md", "n" * 300 + ".md", "no/folder/x.md"])
@pytest.mark.parametrize("asked", [False, True], ids=["typed", "asked"])
async def test_a_file_that_cannot_be_written(
    file: str, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with make_app(ScriptedEngine("Yes.")).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        app_of(pilot).clear_notifications()
        if asked:
            await say(pilot, "/export")
            await pilot.press(*file, "enter")
        else:
            await say(pilot, f"/export {file}")
        await until(pilot, lambda: toasts(pilot))
        assert not list(tmp_path.rglob("*"))


async def test_deleting_the_chat_on_the_screen_is_told_once() -> None:
    async with make_app(ScriptedEngine("Yes.")).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await say(pilot, "/delete")
        await until(pilot, lambda: chat_of(pilot).view.newest_view is None)
        await pilot.pause(0.1)
        assert len(toasts(pilot)) == 1


async def test_tab_reaches_the_suggestions() -> None:
    async with make_app().run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        await pilot.press("tab", "down", "enter")
        await until(pilot, lambda: chat_of(pilot).composer.text)
        second = chat_of(pilot).view.query(Suggestion)[1]
        assert chat_of(pilot).composer.text in plain(second)


async def test_the_keys_of_a_selected_turn_are_always_in_sight() -> None:
    async with make_app(ScriptedEngine("word\n\n" * 60)).run_test(size=(80, 24)) as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await pilot.press("tab")
        await pilot.pause()
        assert "c copy" in plain(pilot.app.screen.query_one(StatusBar))
        await pilot.press("escape")
        await pilot.pause()
        assert "c copy" not in plain(pilot.app.screen.query_one(StatusBar))


async def test_what_a_letter_did_to_a_turn_is_told() -> None:
    async with make_app(ScriptedEngine("Yes.")).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await pilot.press("tab", "d")
        await until(pilot, lambda: newest(pilot).turn.context_policy is ContextPolicy.DROPPED)
        assert "Message 1: not read any more." in toasts(pilot)


async def test_ctrl_l_leaves_an_old_search() -> None:
    async with make_app(ScriptedEngine("Yes.")).run_test(size=(120, 30)) as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await say(pilot, "/search hello")
        panel = app_of(pilot).chat_screen.chats_panel
        await until(pilot, lambda: panel.has_class("-searching"))
        chat_of(pilot).composer.focus()
        await pilot.press("ctrl+l")
        await pilot.pause()
        assert not panel.has_class("-searching")
        assert panel.chat_list.has_focus


async def test_a_chat_and_its_forks_look_different_in_the_list() -> None:
    store = Store(None)
    chat = store.create_conversation("A title that is much too long for the list of chats")
    store.fork(chat.id)
    store.fork(chat.id)
    async with make_app(store=store).run_test(size=(120, 30)) as pilot:
        await pilot.pause()
        shown = plain(app_of(pilot).chat_screen.chats_panel)
        assert "fork · A title" in shown
        assert "fork 2 · A title" in shown
