"""Chats that another process deletes or locks."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import StoreError
from chatlm.store import database
from chatlm.store.store import Store
from chatlm.types.conversations import ContextPolicy
from tests.tui.support import (
    StillEngine,
    chat_of,
    idle,
    leave,
    line,
    make_app,
    newest,
    plain,
    run,
    say,
    toasts,
    until,
)
from tests.waiting import PATIENCE

DELETED = "chat 1 was deleted\nBring it back: chatlm chats restore 1"


async def test_a_chat_that_another_chatlm_deletes() -> None:
    store = Store(None)
    async with make_app(ScriptedEngine("Hi."), store).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await run(pilot, "context")
        store.trash(1)
        await leave(pilot)
        assert DELETED in toasts(pilot)
        for command in (
            *("regenerate", "rename", "pin-chat", "delete", "undo", "export", "copy-chat"),
            *("details", "xray", "replay", "fork", "pin", "drop", "summarise"),
            *("context", "settings", "preview", "model"),
        ):
            await run(pilot, command)
            await idle(pilot)
            await leave(pilot)
        await say(pilot, "More")
        await idle(pilot)
        assert "More" in chat_of(pilot).composer.text
        store.restore(1)
        chat_of(pilot).composer.focus()
        await pilot.press("enter")
        await until(pilot, lambda: len(store.conversation(1).turns) == 2)
        await idle(pilot)


async def test_a_chat_that_vanishes_while_it_is_answered() -> None:
    store, engine = Store(None), StillEngine("One ", "two", stand_after=1)
    async with make_app(engine, store).run_test() as pilot:
        await say(pilot, "Hello")
        await until(pilot, lambda: "One" in plain(newest(pilot)))
        store.trash(1)
        store.empty_trash()
        engine.go.set()
        await idle(pilot)
        assert "One two" in plain(newest(pilot))
        assert line(pilot).startswith("failed")
        await pilot.press("ctrl+n")
        await say(pilot, "Hello again")
        await idle(pilot)
        assert "One two" in plain(newest(pilot))


async def test_a_message_for_a_locked_database_goes_back_to_the_composer(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "chats.db")
    async with make_app(ScriptedEngine("Hi.", "Ho."), store).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        lock = sqlite3.connect(tmp_path / "chats.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        await pilot.press(*"typed", "enter", *"more")
        await idle(pilot)
        assert any("locked for over 5 seconds" in toast for toast in toasts(pilot))
        assert chat_of(pilot).composer.text.startswith("typed\n")
        lock.execute("ROLLBACK")
        lock.close()
        await pilot.press("enter")
        await idle(pilot)
        assert "Ho." in plain(newest(pilot))
    store.close()


async def test_a_locked_database_blocks_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 3 * PATIENCE)
    store = Store(tmp_path / "chats.db")
    async with make_app(ScriptedEngine("One.", "Two.", "Three."), store).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await pilot.press("ctrl+r")
        await idle(pilot)
        await pilot.press("tab")
        lock = sqlite3.connect(tmp_path / "chats.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        pressed = time.monotonic()
        await pilot.press("p", "d", "left")
        assert newest(pilot).turn.context_policy is ContextPolicy.DROPPED
        assert "One." in plain(newest(pilot))
        chat_of(pilot).composer.focus()
        await say(pilot, "More")
        assert time.monotonic() - pressed < PATIENCE, "the keys waited for the lock"
        lock.execute("ROLLBACK")
        lock.close()
        await until(pilot, lambda: newest(pilot).turn.position == 1)
        await idle(pilot)
        first = store.turn(1)
        assert (first.context_policy, first.active_reply_id) == (
            ContextPolicy.DROPPED,
            first.replies[0].id,
        )
        reply = store.turn(2).replies[0]
        made = store.provenance(reply.id)
        assert made is not None
        assert [message.text for message in made.messages] == ["More"]
    store.close()


async def test_a_turn_that_cannot_be_stored_is_rolled_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store(None)

    def broken(*_: object) -> None:
        raise StoreError("The disk failed.")

    monkeypatch.setattr(store, "set_context_policy", broken)
    async with make_app(ScriptedEngine("Hi."), store).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await pilot.press("tab", "p")
        await until(pilot, lambda: "The disk failed." in toasts(pilot))
        await until(pilot, lambda: newest(pilot).turn.context_policy is ContextPolicy.AUTO)
        assert "pinned" not in plain(newest(pilot))
