"""The UI thread never waits for the database, whatever the user does."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import StoreError
from chatlm.store import queries
from chatlm.store.store import Store
from chatlm.tui.screens.context import ContextScreen
from chatlm.tui.screens.details import DetailsScreen
from chatlm.tui.screens.trace import TraceScreen
from chatlm.tui.widgets.context_gauge import ContextGauge
from chatlm.types.conversations import Conversation
from chatlm.types.replies import StopReason
from tests.tui.support import (
    app_of,
    chat_of,
    idle,
    make_app,
    newest,
    notices,
    plain,
    rows,
    say,
    toasts,
    until,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a few chats."""
    path = tmp_path / "chats.db"
    with Store(path) as store:
        for title in ("Birds", "Cats", "Dogs"):
            chat = store.create_conversation(title)
            turn = store.add_turn(chat.id, f"Tell me about {title.lower()}.")
            reply = store.start_reply(turn.id, model="m")
            store.finish_reply(reply.id, text=f"{title} live.", stop_reason=StopReason.END)
            store.save_draft(chat.id, f"draft about {title.lower()}")
    return path


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """The app's own store; a test looks at the database through another one."""
    with Store(path) as opened:
        yield opened


class Watch:
    """Records the threads that use a store."""

    def __init__(self, store: Store) -> None:
        self.in_ui_thread: list[str] = []
        self.elsewhere = 0
        for connection in (store._database._reader, store._database._writer):
            connection.set_trace_callback(self._record)

    def _record(self, statement: str) -> None:
        if threading.current_thread() is threading.main_thread():
            self.in_ui_thread.append(statement + "".join(traceback.format_stack(limit=12)))
        else:
            self.elsewhere += 1

    def check(self, step: str) -> None:
        assert not self.in_ui_thread, f"{step}: {self.in_ui_thread[0]}"


def message_shown(pilot: Pilot[None]) -> str:
    view = chat_of(pilot).view.newest_view
    return view.turn.display_text if view else ""


async def test_no_step_of_a_chat_reads_or_writes_in_the_ui_thread(store: Store) -> None:
    watch = Watch(store)
    engine = ScriptedEngine(*["Yes, they do."] * 12)
    async with make_app(engine, store, conversation_id=1).run_test(size=(120, 40)) as pilot:
        chat = chat_of(pilot)
        await until(pilot, lambda: message_shown(pilot) == "Tell me about birds.")
        await until(pilot, lambda: len(rows(pilot)) > 3)
        await until(pilot, lambda: chat.composer.text == "draft about birds")
        watch.check("starting")

        await say(pilot, "Do they sing?")
        await idle(pilot)
        watch.check("sending")
        await pilot.press("ctrl+r")
        await idle(pilot)
        assert len(newest(pilot).turn.replies) == 2
        watch.check("retrying")
        newest(pilot).focus()
        await pilot.press("left", "p", "p")
        await until(pilot, lambda: not chat.has_pending_writes)
        watch.check("choosing a version and pinning")
        await pilot.press("i")
        await until(pilot, lambda: isinstance(pilot.app.screen, DetailsScreen))
        await pilot.press("escape", "t")
        await until(pilot, lambda: isinstance(pilot.app.screen, TraceScreen))
        await pilot.press("escape")
        watch.check("looking at details")
        newest(pilot).focus()
        await pilot.press("e")
        await say(pilot, "Do they dance?")
        await idle(pilot)
        assert message_shown(pilot) == "Do they dance?"
        watch.check("editing")

        app_of(pilot).chat_screen.show_chat_list()
        app_of(pilot).chat_screen.chats_panel.search("cats")
        await until(pilot, lambda: pilot.app.screen.query("HitList HitRow, #hits"))
        panel = app_of(pilot).chat_screen.chats_panel
        await until(pilot, lambda: panel.has_class("-searching"))
        await pilot.press("down", "enter")
        await until(pilot, lambda: chat.conversation_id == 2)
        watch.check("searching")

        await app_of(pilot).chat_screen.action_command("context")
        await until(pilot, lambda: isinstance(pilot.app.screen, ContextScreen))
        await pilot.pause()
        await pilot.press("escape")
        watch.check("looking at the context")
        panel.reset_search()
        await pilot.press("ctrl+n")
        await until(pilot, lambda: chat.conversation_id is None)
        await pilot.press("up")
        await until(pilot, lambda: chat.composer.text == "Do they dance?")
        watch.check("browsing the history")
        chat.composer.text = ""
        await pilot.press(*"abc")
        assert await chat.switch.open_chat(3)
        await until(pilot, lambda: chat.composer.text == "draft about dogs")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: chat.composer.text == "abc")
        watch.check("switching")
        app_of(pilot).chat_screen.chats_panel.rename_chat(3, "Wolves")
        await until(pilot, lambda: "Wolves" in "".join(rows(pilot)))
        app_of(pilot).chat_screen.chats_panel.delete_chat(3)
        await until(pilot, lambda: "Wolves" not in "".join(rows(pilot)))
        await until(pilot, lambda: not chat.has_pending_writes)
        watch.check("changing the list")
    watch.check("quitting")
    assert watch.elsewhere > 100


async def test_a_turn_loads_its_chat_once_with_all_that_the_screen_does_about_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[int] = []
    load = queries.load_conversation

    def counted(db: Any, conversation_id: int) -> Conversation:
        loaded.append(conversation_id)
        return load(db, conversation_id)

    engine = ScriptedEngine("Yes.", "No.")
    async with make_app(engine, store, conversation_id=1).run_test() as pilot:
        await until(pilot, lambda: message_shown(pilot) == "Tell me about birds.")
        await until(pilot, lambda: engine.read_ahead_requests)
        monkeypatch.setattr(queries, "load_conversation", counted)
        gauge = chat_of(pilot).view.header.query_one(ContextGauge)
        await say(pilot, "Do they sing?")
        await idle(pilot)
        await until(pilot, lambda: len(engine.read_ahead_requests[-1].messages) == 4)
        await until(pilot, lambda: gauge.fill is not None)
        assert loaded == [1]


class SlowStore(Store):
    """Loads these chats only when it is told to."""

    def __init__(self, path: Path, *slow: int) -> None:
        super().__init__(path)
        self.go = {chat: threading.Event() for chat in slow}
        self.asked: list[int] = []

    def conversation(self, conversation_id: int) -> Conversation:
        self.asked.append(conversation_id)
        if conversation_id in self.go:
            assert self.go[conversation_id].wait(20)
        return super().conversation(conversation_id)


async def start_opening(pilot: Pilot[None], chat: int) -> None:
    """Open a chat as the list does, without waiting for it."""
    screen = app_of(pilot).chat_screen
    screen.run_worker(chat_of(pilot).switch.open_chat(chat), exit_on_error=False)
    await until(pilot, lambda: chat_of(pilot).switch.is_opening)


async def test_what_is_typed_and_sent_while_a_chat_loads_is_meant_for_it(path: Path) -> None:
    with SlowStore(path, 2) as store:
        async with make_app(ScriptedEngine("Yes."), store, conversation_id=1).run_test() as pilot:
            chat = chat_of(pilot)
            await until(pilot, lambda: message_shown(pilot) == "Tell me about birds.")
            await until(pilot, lambda: chat.composer.text == "draft about birds")
            chat.view.focus_composer()
            await start_opening(pilot, 2)
            await pilot.press(*"Hi", "enter", *"more")
            assert "Hi" in chat.composer.text, "keys are handled while the store is slow"
            assert message_shown(pilot) == "Tell me about birds."
            store.go[2].set()
            await until(pilot, lambda: message_shown(pilot) == "Hi")
            await idle(pilot)
            assert chat.conversation_id == 2
            await until(pilot, lambda: not chat.has_pending_writes)
        with Store(path) as seen:
            assert [turn.display_text for turn in seen.conversation(2).turns][-1] == "Hi"
            assert len(seen.conversation(1).turns) == 1
            assert "draft about birds" in seen.draft(1)


async def test_the_chat_that_was_asked_for_last_is_shown(path: Path) -> None:
    with SlowStore(path, 2) as store:
        async with make_app(None, store, conversation_id=1).run_test() as pilot:
            chat = chat_of(pilot)
            await until(pilot, lambda: message_shown(pilot) == "Tell me about birds.")
            await start_opening(pilot, 2)
            await until(pilot, lambda: 2 in store.asked)
            await start_opening(pilot, 3)
            store.go[2].set()
            await until(pilot, lambda: message_shown(pilot) == "Tell me about dogs.")
            await until(pilot, lambda: chat.composer.text == "draft about dogs")
            assert chat.switch.count == 3, "the new chat, the first one and the last one"


async def test_a_chat_that_cannot_be_loaded_leaves_the_open_one_with_its_draft(
    path: Path,
) -> None:
    with SlowStore(path, 2) as store:
        async with make_app(None, store, conversation_id=1).run_test() as pilot:
            chat = chat_of(pilot)
            await until(pilot, lambda: chat.composer.text == "draft about birds")
            chat.view.focus_composer()
            await start_opening(pilot, 2)
            await pilot.press(*"!!")
            with Store(path) as other:
                other.delete(2)
            store.go[2].set()
            await until(pilot, lambda: notices(pilot))
            assert "no chat 2" in notices(pilot)[0]
            assert chat.conversation_id == 1
            assert chat.composer.text == "draft about birds!!"


async def test_a_turn_that_ends_while_its_chat_loads_is_shown_complete(path: Path) -> None:
    with SlowStore(path) as store:
        engine = ScriptedEngine("One two three.")
        async with make_app(engine, store, conversation_id=1).run_test() as pilot:
            chat = chat_of(pilot)
            await until(pilot, lambda: message_shown(pilot) == "Tell me about birds.")
            store.go[1] = threading.Event()
            await say(pilot, "Go on")
            await pilot.press("ctrl+n")
            store.go[1].set()
            assert await chat.switch.open_chat(1)
            await idle(pilot)
            await until(pilot, lambda: "One two three." in plain(newest(pilot)))
            assert message_shown(pilot) == "Go on"


async def test_a_change_that_cannot_be_stored_is_shown_as_it_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise StoreError("The disk is full")

    async with make_app(None, store, conversation_id=1).run_test() as pilot:
        chat = chat_of(pilot)
        await until(pilot, lambda: chat.conversation_id == 1)
        monkeypatch.setattr("chatlm.tui.chat.edits._SETTERS", {"system": full})
        chat.edits.set_system("Be brief.")
        assert chat.conversation.system == "Be brief."
        await until(pilot, lambda: chat.conversation.system == "")
        assert any("disk is full" in toast for toast in toasts(pilot))
