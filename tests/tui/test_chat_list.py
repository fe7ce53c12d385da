"""The chat list alone: groups, pages, actions on a chat, hostile titles."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from textual.app import App, ComposeResult
from textual.message import Message
from textual.pilot import Pilot
from textual.widgets import Input

from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import StoreError
from chatlm.store import database
from chatlm.store.queries import ChatListEntry
from chatlm.store.store import Store
from chatlm.tui.chat_list.chat_list import PAGE_SIZE, ChatList
from chatlm.tui.chat_list.panel import ChatsPanel, SearchByMeaning
from chatlm.tui.chat_list.rows import ANSWERING, PINNED, UNFINISHED, day_group
from chatlm.tui.screens.dialogs import PromptScreen
from chatlm.tui.widgets.hints import Hints
from chatlm.tui.workers import WriteQueue
from chatlm.types.replies import StopReason, Usage
from tests.costs import processor_seconds
from tests.tui.support import (
    app_of,
    chat_of,
    drawn,
    everything_drawn,
    hostile_texts,
    idle,
    make_app,
    plain,
    say,
    until,
)
from tests.waiting import PATIENCE

NOON = datetime(
    2020, 10, 15, 12, tzinfo=UTC
)  # a Thursday; chats made by the tests are from today or later
SIZE = (80, 24)


class PanelApp(App[None]):
    """Only the chat list; records what it posts."""

    ENABLE_COMMAND_PALETTE = False

    def __init__(self, store: Store, search_by_meaning: SearchByMeaning | None = None) -> None:
        super().__init__()
        self.panel = ChatsPanel(
            store,
            lambda: NOON,
            WriteQueue(),
            search_by_meaning=search_by_meaning or (lambda query, progress, is_cancelled: ()),
        )
        self.posted: list[Message] = []

    def compose(self) -> ComposeResult:
        yield self.panel

    async def on_mount(self) -> None:
        await self.reload()
        self.panel.focus_list()

    async def reload(self, current: int | None = None, answering: int | None = None) -> None:
        """Reload the list and wait until it shows what was read."""
        self.panel.reload(current, answering)
        deadline = time.monotonic() + PATIENCE
        while not self.panel.chat_list.up_to_date:
            assert time.monotonic() < deadline, "the list is never read"
            await asyncio.sleep(0.01)

    def on_chat_list_chat_opened(self, message: ChatList.ChatOpened) -> None:
        self.posted.append(message)

    def on_chat_list_chat_deleted(self, message: ChatList.ChatDeleted) -> None:
        self.posted.append(message)

    def on_chat_list_chats_changed(self, message: ChatList.ChatsChanged) -> None:
        self.posted.append(message)


def store_with(*titles: str) -> Store:
    """A chat for each title, the first one the newest."""
    store = Store(None)
    for title in reversed(titles):
        chat(store, title)
    return store


def chat(store: Store, title: str, said: str = "", reply: str = "Yes.") -> int:
    made = store.create_conversation(title)
    turn = store.add_turn(made.id, said or f"About {title}")
    started = store.start_reply(turn.id, model="m")
    if reply:
        store.finish_reply(started.id, text=reply, stop_reason=StopReason.END, usage=Usage())
    return made.id


def rows(app: PanelApp) -> list[str]:
    return [str(option.prompt).strip().split("\n")[0] for option in app.panel.chat_list.options]


def highlighted(app: PanelApp) -> str:
    option = app.panel.chat_list.highlighted_option
    return "" if option is None else str(option.prompt).strip().split("\n")[0]


def toasts(app: PanelApp) -> list[str]:
    return [notification.message for notification in app._notifications]


async def shows(pilot: Pilot[None], app: PanelApp, *expected: str) -> None:
    """Wait until the list has these rows; changes are stored in a thread."""
    await until(pilot, lambda: rows(app) == list(expected))


def hints(app: PanelApp) -> str:
    return str(app.query_one(Hints).content)


# --- what is shown ------------------------------------------------------------------------


def test_days_weeks_and_months() -> None:
    noon = NOON.replace(tzinfo=None).astimezone()  # of the same day everywhere

    def ago(**time: float) -> str:
        return day_group(noon - timedelta(**time), noon)

    assert ago(hours=12) == ago(hours=-48) == "Today"
    assert ago(hours=13) == ago(days=1, hours=12) == "Yesterday"
    assert ago(days=2) == ago(days=3) == "This week"
    assert ago(days=4) == ago(days=14) == "October 2020"
    assert ago(days=15) == "September 2020"
    assert ago(days=365) == "October 2019"
    monday = noon - timedelta(days=3)
    assert day_group(monday - timedelta(days=1), monday) == "Yesterday"
    assert day_group(monday - timedelta(days=2), monday) == "October 2020"


async def test_groups_with_the_pinned_ones_first(monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_with("A", "B", "C", "D", "E")
    store.set_pinned(2, True)
    moved(monkeypatch, store, days=[0, 1, 2, 30])
    app = PanelApp(store)
    async with app.run_test(size=SIZE):
        assert rows(app) == [
            "Pinned", f"{PINNED} D",
            "Today", "A",
            "Yesterday", "B",
            "This week", "C",
            "September 2020", "E",
        ]  # fmt: skip


def moved(monkeypatch: pytest.MonkeyPatch, store: Store, days: list[int]) -> None:
    """Let the chats that are not pinned be so many days old."""
    whole = store.list_conversations

    def aged(limit: int | None = None, offset: int = 0) -> list[ChatListEntry]:
        chats, ages = whole(limit, offset), iter(days)
        return [
            dataclasses.replace(
                each, updated=NOON - timedelta(days=0 if each.pinned else next(ages))
            )
            for each in chats
        ]

    monkeypatch.setattr(store, "list_conversations", aged)


async def test_marks_say_what_a_chat_is() -> None:
    store = store_with("Running", "On screen", "Plain")
    chat(store, "Cut off", reply="")
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        await app.reload(2, 3)
        await pilot.pause()
        assert rows(app)[1:] == [
            f"{UNFINISHED} Cut off",
            f"{ANSWERING} Running",
            "On screen",
            "Plain",
        ]
        bold = [
            strip.text.strip()
            for y in range(SIZE[1])
            for strip in [app.panel.chat_list.render_line(y)]
            if any(part.style and part.style.bold for part in strip if part.text.strip())
        ]
        assert bold == ["On screen"]


async def test_without_chats_it_says_what_will_be_here() -> None:
    app = PanelApp(Store(None))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("enter", "r", "p", "d", "u", "end", "up")
        await until(pilot, lambda: "No chats yet" in plain(app.panel.chat_list))
        assert app.posted == []
        assert toasts(app) == []


async def test_hints_offer_what_can_be_done() -> None:
    app = PanelApp(store_with("One", "Two"))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "r rename" in hints(app))
        for hint in ("enter open", "p pin", "d delete", "/ search"):
            assert hint in hints(app)
        assert "undo" not in hints(app)
        await pilot.press("d")
        await until(pilot, lambda: "u undo" in hints(app))
        app.set_focus(None)
        await until(pilot, lambda: app.query_one(Hints).visible is False)


# --- pages --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ten_thousand() -> Iterator[Store]:
    store = Store(None)
    with store._database.write_transaction() as db:
        rows = [
            (f"Chat {number}", (NOON - timedelta(hours=number)).isoformat())
            for number in range(10_000)
        ]
        db.executemany(
            "INSERT INTO conversation (title, system, created, updated) VALUES (?1, '', ?2, ?2)",
            rows,
        )
        db.execute(
            "INSERT INTO turn (conversation_id, position, content, created)"
            " SELECT id, 0, 'Hello ' || id, created FROM conversation"
        )
    yield store
    store.close()


async def test_ten_thousand_chats_cost_no_more_to_open_than_a_few(ten_thousand: Store) -> None:
    app = PanelApp(store_with(*(f"Chat {number}" for number in range(2 * PAGE_SIZE))))
    async with app.run_test(size=SIZE):
        few = processor_seconds(app.panel.chat_list._show_rows, times=5)
    app = PanelApp(ten_thousand)
    async with app.run_test(size=SIZE) as pilot:
        chats = app.panel.chat_list
        assert chats.option_count < 2 * PAGE_SIZE
        cost = processor_seconds(chats._show_rows, times=5)
        assert cost < 4 * few
        await pilot.press("end")
        await until(pilot, lambda: highlighted(app) == f"{UNFINISHED} Chat 9999")
        assert len([row for row in chats.options if row.id]) == 10_000
        await app.reload()
        assert highlighted(app) == f"{UNFINISHED} Chat 9999"
        await pilot.press("home")
        await app.reload()
        assert chats.option_count < 2 * PAGE_SIZE, "what nobody looks at is not read"


async def test_scrolling_reads_on_until_the_end(ten_thousand: Store) -> None:
    app = PanelApp(ten_thousand)
    async with app.run_test(size=SIZE) as pilot:
        chats = app.panel.chat_list
        for _ in range(4):
            before = chats.option_count
            chats.scroll_end(animate=False, immediate=True)
            await until(pilot, lambda before=before: chats.option_count > before)  # type: ignore[misc]
        titles = [str(row.prompt)[2:].split("\n")[0] for row in chats.options if row.id]
        assert titles == [f"Chat {number}" for number in range(len(titles))]


async def test_a_chat_that_comes_while_pages_are_read_is_no_trouble() -> None:
    store = store_with(*(f"Chat {number}" for number in range(PAGE_SIZE + 50)))
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        app.panel.chat_list.highlighted = None
        chat(store, "From another program")
        await pilot.press("end")
        await until(pilot, lambda: highlighted(app) == f"Chat {PAGE_SIZE + 49}")
        assert len([row for row in app.panel.chat_list.options if row.id]) == PAGE_SIZE + 50


async def test_a_reload_leaves_things_where_they_are() -> None:
    store = store_with(*(f"Chat {number}" for number in range(60)))
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        await app.reload(60)
        app.set_focus(None)
        await pilot.pause()
        app.panel.chat_list.scroll_to(y=25, animate=False, immediate=True)
        chat(store, "New")
        await app.reload(60)
        await pilot.pause()
        assert app.panel.chat_list.scroll_offset.y == 25
        assert highlighted(app) == "Chat 0"
        await app.reload(5)
        await pilot.pause()
        assert highlighted(app) == "Chat 55"
        assert "Chat 55" in "\n".join(drawn(app.panel.chat_list))


# --- what is done with a chat -------------------------------------------------------------


async def test_enter_and_a_click_open_a_right_click_only_goes_there() -> None:
    app = PanelApp(store_with("New", "Old"))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("down", "enter")
        await pilot.click(app.panel.chat_list, offset=(4, 1))
        await pilot.click(app.panel.chat_list, offset=(4, 3), button=3)
        await pilot.pause()
        assert app.posted == [ChatList.ChatOpened(1), ChatList.ChatOpened(2)]
        assert highlighted(app) == "Old"


async def test_rename() -> None:
    store = store_with("New", "Old")
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("down", "r")
        await until(pilot, lambda: isinstance(app.screen, PromptScreen))
        assert app.screen.query_one(Input).value == "Old"
        await pilot.press(*"Tax [b]", "enter")
        await until(pilot, lambda: not isinstance(app.screen, PromptScreen))
        await shows(pilot, app, "Today", "New", "Tax [b]")
        assert highlighted(app) == "Tax [b]"
        assert store.conversation(1).title == "Tax [b]"
        assert app.posted == [ChatList.ChatsChanged()]


async def test_rename_left_or_unchanged_changes_nothing_and_empty_takes_the_title() -> None:
    store = Store(None)
    for title in ("", "A title"):
        chat(store, title, said="First words")
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("r", *"x", "escape", "down", "r", "enter")
        await pilot.pause()
        assert [store.conversation(each).title for each in (1, 2)] == ["", "A title"]
        assert app.posted == []
        await pilot.press("up", "r", "delete", "enter")
        await until(pilot, lambda: rows(app) == ["Today", "First words", "First words"])
        assert store.conversation(2).title == ""


async def test_rename_suggests_a_title() -> None:
    store = Store(None)
    chat(store, "", said="How do I prune roses? They are wild.")
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("r", "tab")
        await until(pilot, lambda: app.screen.query_one(Input).value == "How do I prune roses")
        await pilot.press("enter")
        await until(pilot, lambda: rows(app) == ["Today", "How do I prune roses"])


async def test_pin_and_unpin() -> None:
    app = PanelApp(store_with("New", "Old"))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("down", "p")
        await shows(pilot, app, "Pinned", f"{PINNED} Old", "Today", "New")
        assert highlighted(app) == f"{PINNED} Old"
        await pilot.press("p")
        await shows(pilot, app, "Today", "New", "Old")
        assert toasts(app) == ["Pinned “Old”.", "Unpinned “Old”."]


async def test_delete_and_undo_several_times() -> None:
    store = store_with("A", "B", "C")
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("down", "d")
        assert (rows(app), highlighted(app)) == (["Today", "A", "C"], "C")
        await pilot.press("delete")
        assert (rows(app), highlighted(app)) == (["Today", "A"], "A")
        await until(pilot, lambda: len(toasts(app)) == 2)
        assert toasts(app)[0] == "Deleted “B”. u restores it."
        await pilot.press("u")
        await shows(pilot, app, "Today", "A", "C")
        assert highlighted(app) == "C"
        await pilot.press("u")
        await shows(pilot, app, "Today", "A", "B", "C")
        assert highlighted(app) == "B"
        await pilot.press("u")
        assert rows(app) == ["Today", "A", "B", "C"]
        assert store.search("About") != []


async def test_a_locked_disk_holds_up_no_key_and_changes_come_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 3 * PATIENCE)
    store = Store(tmp_path / "chats.db")
    for title in "CBA":
        chat(store, title)
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        lock = sqlite3.connect(tmp_path / "chats.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        await pilot.press("p", "p", "p", "d", "u", "down", "d")
        app.panel.rename_chat(3, "First")
        assert time.monotonic() - began < PATIENCE, "the keys waited for the lock"
        assert toasts(app) == []
        lock.execute("ROLLBACK")
        lock.close()
        await shows(pilot, app, "Pinned", f"{PINNED} First", "Today", "B")
        assert [chat.title for chat in store.list_conversations()] == ["First", "B"]
    store.close()


async def test_a_chat_that_cannot_be_deleted_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_with("A", "B")

    def broken(conversation_id: int) -> None:
        raise StoreError("The disk failed.")

    monkeypatch.setattr(store, "trash", broken)
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("d")
        await until(pilot, lambda: toasts(app) == ["The disk failed."])
        assert rows(app) == ["Today", "A", "B"]
        app.panel.undo_delete()
        await until(pilot, lambda: len(toasts(app)) == 2)
        assert toasts(app)[1] == "There is no deleted chat to restore."


async def test_deleting_the_chat_on_the_screen_is_reported() -> None:
    app = PanelApp(store_with("A", "B"))
    async with app.run_test(size=SIZE) as pilot:
        app.panel.reload(1, None)
        await pilot.press("d", "d")
        await until(pilot, lambda: len(app.posted) == 3)
        assert app.posted.count(ChatList.ChatDeleted(1)) == 1
        assert "No chats yet" in rows(app)[0]


async def test_a_chat_that_is_being_answered_cannot_be_deleted() -> None:
    app = PanelApp(store_with("A"))
    async with app.run_test(size=SIZE) as pilot:
        app.panel.reload(1, 1)
        await pilot.press("d")
        assert rows(app) == ["Today", f"{ANSWERING} A"]
        assert "with a running reply" in toasts(app)[0]
        assert "esc" in toasts(app)[0]


async def test_slash_commands_do_the_same() -> None:
    store = store_with("A", "B")
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        app.set_focus(None)
        app.panel.undo_delete()
        app.panel.rename_chat(1, "Z")
        app.panel.pin_chat(1)
        await shows(pilot, app, "Pinned", f"{PINNED} Z", "Today", "A")
        app.panel.delete_chat(1)
        assert rows(app) == ["Today", "A"]
        app.panel.undo_delete()
        await shows(pilot, app, "Pinned", f"{PINNED} Z", "Today", "A")
        await until(pilot, lambda: len(toasts(app)) == 4)
        assert toasts(app)[0] == "There is no deleted chat to restore."
        assert "Deleted “Z”. /undo restores it." in toasts(app)
        app.panel.rename_chat(2)
        await until(pilot, lambda: isinstance(app.screen, PromptScreen))
        assert toasts(app) == [], "nothing covers what is asked"


async def test_a_chat_that_is_gone_is_reported() -> None:
    store = store_with("A", "B")
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        store.delete(2)
        await pilot.press("p", "r", "d")
        await until(pilot, lambda: len(toasts(app)) == 3)
        assert all("no chat 2" in toast for toast in toasts(app))


# --- hostile texts ------------------------------------------------------------------------


async def test_hostile_titles_are_drawn_safely(shared_data: Path) -> None:
    texts = [text for text in hostile_texts(shared_data) if text.strip()]
    store = store_with(*texts)
    app = PanelApp(store)
    async with app.run_test(size=(40, 60)) as pilot:
        chats = app.panel.chat_list
        await pilot.press("end")
        assert chats.option_count > len(texts)
        assert chats.virtual_size.height == 2 * len(texts) + 1, "two lines a chat"
        for top in range(0, 2 * len(texts), 50):
            chats.scroll_to(y=top, animate=False, immediate=True)
            await pilot.pause()
            assert_safe(everything_drawn(pilot))
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, PromptScreen))
        assert_safe(everything_drawn(pilot))
        await pilot.press("escape", "d", "u", "p")
        assert_safe("".join(toasts(app)))


def assert_safe(text: str) -> None:
    assert not [c for c in text if (ord(c) < 0x20 and c != "\n") or 0x7F <= ord(c) < 0xA0]
    assert not set(text) & set("\u202e\u2066\u200f\ufeff")


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
        assert [shown.count(f"now · {each}\n") for each in ("fork", "fork 2")] == [1, 1]
