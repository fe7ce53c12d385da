"""Hard use: haste, locks, chats that vanish, broken engines, tiny terminals; nothing is lost."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot

from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import Cancelled, StoreError
from chatlm.store import database
from chatlm.store.store import Store
from chatlm.tui.chat.chat_view import ChatView
from chatlm.types.events import EngineEvent, Prefill
from chatlm.types.messages import ContextPolicy, Message, StopReason, Usage
from chatlm.types.requests import Prompt, Request
from tests.tui.support import (
    StillEngine,
    app_of,
    chat_of,
    idle,
    line,
    make_app,
    newest,
    plain,
    rows,
    say,
    toasts,
    until,
)
from tests.waiting import PATIENCE

DELETED = "chat 1 was deleted\nBring it back: chatlm chats restore 1"


async def run(pilot: Pilot[None], command: str, argument: str = "") -> None:
    await app_of(pilot).chat_screen.action_command(command, argument)
    await pilot.pause()


async def leave(pilot: Pilot[None]) -> None:
    """Close whatever is over the chat."""
    for _ in range(4):
        if pilot.app.screen is app_of(pilot).chat_screen:
            return
        await pilot.press("escape")
        await pilot.pause()
    raise AssertionError(f"{pilot.app.screen} does not close")


class Broken(StillEngine):
    """Fails in everything but a stream, and not in words."""

    def preview(self, request: Request) -> Prompt:
        raise ValueError("odd")

    def count_tokens(self, messages: Iterable[Message]) -> int:
        raise ValueError("odd")

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        raise ValueError("odd")
        yield


async def test_an_engine_that_breaks_takes_no_screen_away(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("text")
    async with make_app(Broken("Hi.")).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        assert "Hi." in plain(newest(pilot))
        for command in ("context", "preview", "xray", "summarise", "replay", "settings", "system"):
            await run(pilot, command)
            await pilot.pause(0.05)
            await leave(pilot)
        await run(pilot, "attach", str(file))
        await pilot.press("enter")
        await until(pilot, lambda: newest(pilot).turn.position == 1)
        await idle(pilot)
        assert "Hi." in plain(newest(pilot))


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


async def test_haste_while_a_reply_is_written() -> None:
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
            await chat_of(pilot).open_chat(other.id)
            await pilot.press("tab", "e", "f", "r", "d", "p", "s", "i")
            await leave(pilot)
            await chat_of(pilot).open_chat(2)
        await run(pilot, "delete")
        await run(pilot, "undo")
        assert "● Hello" in rows(pilot)
        engine.go.set()
        await idle(pilot)
        assert plain(newest(pilot)).startswith("Hello\nOne two")
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
        await until(pilot, lambda: not chat_of(pilot).drafts.saving)
        assert chat_of(pilot).composer.text == "its draft abc"
        assert "mine" in store.draft(None)


async def test_what_is_typed_last_is_kept_on_the_way_out() -> None:
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


async def test_a_locked_database_holds_up_no_key(tmp_path: Path) -> None:
    store = Store(tmp_path / "chats.db")
    async with make_app(ScriptedEngine("Hi.", "Ho."), store).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        lock = sqlite3.connect(tmp_path / "chats.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        slowest = 0.0
        for key in [*"typed", "enter", *"more"] * 2:
            pressed = time.monotonic()
            await pilot.press(key)
            await pilot.pause(0.1)
            slowest = max(slowest, time.monotonic() - pressed)
        assert slowest < database.BUSY_TIMEOUT_SECONDS - 1, "a key waited for the lock"
        await idle(pilot)
        assert any("locked for over 5 seconds" in toast for toast in toasts(pilot))
        assert chat_of(pilot).composer.text.startswith("typed\n")
        lock.execute("ROLLBACK")
        lock.close()
        await pilot.press("enter")
        await idle(pilot)
        assert "Ho." in plain(newest(pilot))
    store.close()


async def test_a_locked_database_holds_up_no_key_of_a_turn(
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


async def test_what_cannot_be_stored_of_a_turn_is_taken_back(
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


@pytest.mark.parametrize("size", [(20, 5), (3, 2)])
async def test_every_screen_opens_in_a_tiny_terminal(size: tuple[int, int], home: Path) -> None:
    table = "# Hi\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\ncode\n```\n> - 漢字"
    async with make_app(ScriptedEngine(table, context=500)).run_test(size=size) as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        for command in (
            *("chats", "search", "help", "palette", "settings", "system", "theme", "context"),
            *("preview", "xray", "details", "replay", "model", "rename", "export", "edit"),
            "plugins",
        ):
            await run(pilot, command)
            await leave(pilot)
        await pilot.resize_terminal(160, 48)
        await pilot.pause()
        assert "code" in plain(newest(pilot))


class Slow(ScriptedEngine):
    """Stands still in each step until `go` is set."""

    def __init__(self, *replies: str) -> None:
        super().__init__(*replies)
        self.go = threading.Event()
        self.slow = False
        self.inside = 0

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        self.inside += 1
        try:
            for event in super().stream(request):
                yield event
                while self.slow and not self.go.wait(0.01):
                    yield Prefill(1, 2)
        finally:
            self.inside -= 1


@pytest.mark.parametrize("command", ["summarise", "replay"])
async def test_closing_a_card_ends_its_work(command: str) -> None:
    engine = Slow("Hi.", "Again.", "Last.")
    async with make_app(engine).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        engine.slow = True
        await run(pilot, command)
        await until(pilot, lambda: engine.inside)
        await leave(pilot)
        await until(pilot, lambda: not engine.inside)
        engine.slow = False
        await say(pilot, "More")
        await idle(pilot)
        assert "Last." in plain(newest(pilot))
        assert chat_of(pilot).conversation.turns[0].context_policy is ContextPolicy.AUTO


@pytest.mark.parametrize("command", ["summarise", "replay", "context"])
async def test_quitting_ends_the_work_of_a_card(command: str) -> None:
    engine = Slow("Hi.", "Again.")
    async with make_app(engine).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        engine.slow = True
        await run(pilot, command)
        if command == "context":
            await until(pilot, lambda: "read" in plain(pilot.app.screen))
            await pilot.press("end", "s")
        await until(pilot, lambda: engine.inside)
        await pilot.press("ctrl+q")
    ends = time.monotonic() + PATIENCE
    while engine.inside:
        assert time.monotonic() < ends
        time.sleep(0.01)


async def test_a_model_that_a_replay_loads_is_given_up_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loading, given_up = threading.Event(), threading.Event()
    engine = ScriptedEngine("Hi.")

    def opens(model: str, report: object) -> ScriptedEngine:
        if model != "other":
            return engine
        loading.set()
        assert callable(report)
        try:
            while True:
                report("downloading 3 %")
                time.sleep(0.01)
        except Cancelled:
            given_up.set()
            raise

    app = make_app(open_engine=opens)
    monkeypatch.setattr(app.services, "require_available", lambda model: None)
    async with app.run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await run(pilot, "replay", "other")
        await until(pilot, loading.is_set)
        await leave(pilot)
        await until(pilot, given_up.is_set)


async def test_another_model_is_loaded_while_the_old_one_is_in_use() -> None:
    opened: list[Slow] = []

    def opens(model: str, report: object) -> Slow:
        opened.append(Slow("Hi.", "Ho."))
        return opened[-1]

    async with make_app(open_engine=opens).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        for number in range(3):
            app_of(pilot).services.load_engine(f"model-{number}")
            await pilot.press("ctrl+g", "ctrl+r")
        await idle(pilot)
        await until(pilot, lambda: opened[-1].requests)
        assert all(engine.closed for engine in opened[:-1])
        assert newest(pilot).turn.replies[-1].stop_reason is StopReason.END
