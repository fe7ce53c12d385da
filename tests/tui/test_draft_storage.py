"""Drafts are saved with their chats, also while the user types."""

from __future__ import annotations

import time

from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from tests.tui.support import (
    chat_of,
    idle,
    make_app,
    say,
    until,
)
from tests.waiting import PATIENCE


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


async def test_what_is_typed_last_is_kept_on_quitting() -> None:
    store = Store(None)
    async with make_app(store=store).run_test() as pilot:
        await pilot.press(*"Hello", "ctrl+q")
    assert "Hello" in store.draft(None)


async def test_a_draft_is_kept_while_one_types_without_a_pause() -> None:
    store = Store(None)
    async with make_app(store=store).run_test() as pilot:
        ends = time.monotonic() + PATIENCE
        while not store.draft(None):
            assert time.monotonic() < ends
            await pilot.press("a")
