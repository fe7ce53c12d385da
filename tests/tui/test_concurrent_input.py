"""Input while a reply is written or a chat opens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from textual import events

from chatlm.store.store import Store
from chatlm.tui.chat.chat_view import ChatView
from chatlm.types.replies import StopReason, Usage
from tests.tui.support import (
    StillEngine,
    chat_of,
    idle,
    leave,
    make_app,
    newest,
    plain,
    rows,
    run,
    say,
    toasts,
    until,
)


async def test_a_reply_that_grows_is_not_forked() -> None:
    store, engine = Store(None), StillEngine("One ", "two", stand_after=1)
    async with make_app(engine, store).run_test() as pilot:
        await say(pilot, "Hello")
        await until(pilot, lambda: "One" in plain(newest(pilot)))
        await run(pilot, "fork")
        assert toasts(pilot) == ["A reply is being written\nesc stops it."]
        assert len(store.list_conversations()) == 1
        engine.go.set()
        await idle(pilot)
        await run(pilot, "fork")
        assert store.conversation(2).turns[0].reply is not None


async def test_keys_pressed_in_haste_while_a_reply_is_written() -> None:
    store, engine = Store(None), StillEngine("One ", "two", stand_after=1)
    other = store.create_conversation("Other")
    turn = store.add_turn(other.id, "An old question")
    reply = store.start_reply(turn.id, model="m")
    store.finish_reply(reply.id, text="Old.", stop_reason=StopReason.END, usage=Usage())
    async with make_app(engine, store).run_test(size=(120, 30)) as pilot:
        await pilot.press(*"Hello", "enter", "enter", "enter")
        await until(pilot, lambda: "One" in plain(newest(pilot)))
        assert len(engine.requests) == 1
        for _ in range(3):
            await pilot.press("ctrl+n", "ctrl+t", "ctrl+r", "ctrl+g")
            await chat_of(pilot).switch.open_chat(other.id)
            await pilot.press("tab", "e", "f", "r", "d", "p", "s", "i")
            await leave(pilot)
            await chat_of(pilot).switch.open_chat(2)
        await run(pilot, "delete")
        await run(pilot, "undo")
        assert "● Hello" in rows(pilot)
        engine.go.set()
        await idle(pilot)
        assert plain(newest(pilot)).startswith("Hello\nsmollm2-135m-instruct\nOne two")
        last = store.conversation(2).turns[0].reply
        assert last is not None
        assert (last.text, last.stop_reason) == ("One two", StopReason.END)
        assert len(engine.requests) == 1


async def test_what_is_typed_while_a_chat_opens_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    store, opens = Store(None), asyncio.Event()
    chat = store.create_conversation("Other")
    store.add_turn(chat.id, "An old question")
    store.save_draft(chat.id, "its draft ")
    show = ChatView.show_chat

    async def slowly(self: ChatView, *args: Any, **kwargs: Any) -> None:
        await opens.wait()
        await show(self, *args, **kwargs)

    async with make_app(store=store).run_test(size=(120, 30)) as pilot:
        await pilot.press(*"mine", "ctrl+l")
        monkeypatch.setattr(ChatView, "show_chat", slowly)
        pilot.app.post_message(events.Key("enter", None))
        while chat_of(pilot).saved_conversation_id != chat.id:
            await asyncio.sleep(0.01)
        for key in "abc":
            pilot.app.post_message(events.Key(key, key))
        await asyncio.sleep(0.1)
        opens.set()
        await until(pilot, lambda: not chat_of(pilot).state.drafts.saving)
        assert chat_of(pilot).composer.text == "its draft abc"
        assert "mine" in store.draft(None)
