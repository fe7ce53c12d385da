"""The search box of the chat list: debounced, the newest query wins, hits open their turn."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.content import Content
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Input

from chatlm.errors import Cancelled, StoreError, UsageError
from chatlm.store.search import ChatSearchHit
from chatlm.store.store import Store
from chatlm.tui.chat_list import panel
from chatlm.tui.chat_list.chat_list import ChatList
from chatlm.tui.chat_list.panel import MATCH_STYLE, HitList
from chatlm.tui.chat_list.rows import SearchBox
from chatlm.tui.widgets.hints import Hints
from chatlm.types.replies import StreamedPart
from tests.tui.support import drawn, everything_drawn, hostile_texts, plain, until
from tests.tui.test_chat_list import SIZE, PanelApp, assert_safe, chat, store_with, toasts
from tests.waiting import PATIENCE, wait_until


def garden() -> Store:
    """Three chats; the first has `water` in two messages, the second in its title."""
    store = Store(None)
    chat(store, "Plants", said="What do tomatoes need?", reply="Sun, and water every day.")
    store.add_turn(1, "How much water?")
    chat(store, "Watering [b]cans", said="Which one?", reply="The red one.")
    chat(store, "Roses", said="When to prune?", reply="In March.")
    return store


def hits_of(app: PanelApp) -> list[str]:
    return [str(option.prompt).strip() for option in app.query_one(HitList).options]


async def enter_words(pilot: Pilot[None], app: PanelApp, words: str) -> None:
    """Put all words into the search box at once: typed one by one, slowly, each begins a search."""
    await pilot.press("slash")
    app.query_one(SearchBox).value = words
    app.query_one(SearchBox).cursor_position = len(words)


def focused(app: PanelApp) -> Widget | None:
    return app.focused


def showing_hits(app: PanelApp) -> bool:
    return app.query_one(HitList).display and bool(hits_of(app))


async def test_hits_are_titles_first_then_messages_with_their_role() -> None:
    app = PanelApp(garden())
    async with app.run_test(size=SIZE) as pilot:
        await enter_words(pilot, app, "water")
        await until(pilot, lambda: showing_hits(app))
        assert hits_of(app) == [
            "Titles",
            "Watering [b]cans",
            "Messages",
            "Plants\nyou How much water?",
            "reply Sun, and water every day.",
        ]
        assert not app.panel.chat_list.display
        assert app.focused is app.query_one(SearchBox)
        assert "Roses" not in everything_drawn(pilot)


async def test_the_words_are_marked_where_they_are() -> None:
    app = PanelApp(garden())
    async with app.run_test(size=SIZE) as pilot:
        await enter_words(pilot, app, "mUch wat")
        await until(pilot, lambda: showing_hits(app))
        prompt = app.query_one(HitList).options[1].prompt
        assert isinstance(prompt, Content)
        marked = [
            str(prompt)[span.start : span.end] for span in prompt.spans if span.style == MATCH_STYLE
        ]
        assert marked == ["much", "water"]


async def test_a_hit_opens_its_chat_at_its_turn() -> None:
    app = PanelApp(garden())
    async with app.run_test(size=SIZE) as pilot:
        await enter_words(pilot, app, "water")
        await pilot.press("down")
        await until(pilot, lambda: app.focused is app.query_one(HitList))
        await pilot.press("enter", "down", "enter", "down", "enter")
        await until(pilot, lambda: len(app.posted) == 3)
        assert app.posted == [
            ChatList.ChatOpened(2, None),
            ChatList.ChatOpened(1, 2),
            ChatList.ChatOpened(1, 1),
        ]
        await pilot.click(app.query_one(HitList), offset=(3, 1))
        await until(pilot, lambda: len(app.posted) == 4)
        assert app.posted[3] == ChatList.ChatOpened(2, None)


async def test_enter_in_the_box_opens_the_first_hit_once_it_is_there() -> None:
    app = PanelApp(garden())
    async with app.run_test(size=SIZE) as pilot:
        await enter_words(pilot, app, "much water")
        await pilot.press("enter")
        await until(pilot, lambda: app.posted)
        assert app.posted == [ChatList.ChatOpened(1, 2)]
        await pilot.press("enter")
        await until(pilot, lambda: len(app.posted) == 2)
        assert app.posted[1] == ChatList.ChatOpened(1, 2)
        assert app.focused is app.query_one(SearchBox), "the screen decides where the keys go"


async def test_enter_opens_nothing_when_the_words_changed_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(panel, "SEARCH_DELAY_SECONDS", PATIENCE)
    app = PanelApp(garden())
    async with app.run_test(size=SIZE) as pilot:
        await enter_words(pilot, app, "water")
        await pilot.press("enter", "s")
        monkeypatch.setattr(panel, "SEARCH_DELAY_SECONDS", 0.01)
        await pilot.press("backspace")
        await until(pilot, lambda: showing_hits(app))
        await pilot.pause(0.3)
        assert app.posted == []


async def test_keys_lead_from_the_list_to_the_box_to_the_hits_and_back() -> None:
    app = PanelApp(garden())
    async with app.run_test(size=SIZE) as pilot:
        box, hits = app.query_one(SearchBox), app.query_one(HitList)
        await pilot.press("up")
        assert focused(app) is box
        await pilot.press("down")
        assert focused(app) is app.panel.chat_list
        await enter_words(pilot, app, "water")
        await until(pilot, lambda: showing_hits(app))
        await pilot.press("down")
        await until(pilot, lambda: focused(app) is hits)
        await pilot.press("up")
        assert focused(app) is box
        await pilot.press("down")
        await until(pilot, lambda: focused(app) is hits)
        await pilot.press("slash")
        assert focused(app) is box
        await pilot.press("escape")
        await until(pilot, lambda: box.value == "")
        assert app.panel.chat_list.display
        assert not hits.display


async def test_the_box_says_where_down_leads() -> None:
    app = PanelApp(garden())
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("slash")
        keys = app.panel.query_one(Hints)
        await until(pilot, lambda: "↓ back to the chats" in plain(keys))
        assert "enter" not in plain(keys)
        await pilot.press(*"water")
        await until(pilot, lambda: "↓ to the results" in plain(keys))
        assert "back to the chats" not in plain(keys)
        assert "enter open first result" in plain(keys)
        await pilot.press(*["backspace"] * 5, "enter")
        await until(pilot, lambda: app.focused is app.panel.chat_list)


async def test_escape_leaves_the_hits_too_and_nothing_else() -> None:
    app = PanelApp(garden())
    async with app.run_test(size=SIZE) as pilot:
        assert not app.panel.leave_search()
        app.panel.search("water")
        await until(pilot, lambda: app.focused is app.query_one(HitList))
        assert app.panel.leave_search()
        assert app.query_one(SearchBox).value == ""
        app.panel.focus_list()
        assert not app.panel.leave_search()


async def test_search_without_words_waits_for_them() -> None:
    app = PanelApp(garden())
    async with app.run_test(size=SIZE) as pilot:
        app.panel.search("water")
        await until(pilot, lambda: showing_hits(app))
        app.panel.search()
        await pilot.pause()
        assert app.focused is app.query_one(SearchBox)
        assert app.panel.chat_list.display


async def test_no_hits_are_reported_and_enter_stays() -> None:
    app = PanelApp(garden())
    async with app.run_test(size=SIZE) as pilot:
        await enter_words(pilot, app, "xylo [b]")
        await pilot.press("enter")
        await until(pilot, lambda: showing_hits(app))
        assert "No results for “xylo [b]”." in hits_of(app)[0]
        await pilot.press("enter", "down")
        await pilot.pause()
        assert app.focused is app.query_one(SearchBox)
        assert app.posted == []


async def test_one_search_for_what_is_typed_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    store = garden()
    asked: list[str] = []

    def search(words: str, *limit: int, part: StreamedPart = "text") -> list[ChatSearchHit]:
        if part == "text":
            asked.append(words)
        return []

    monkeypatch.setattr(store, "search", search)
    monkeypatch.setattr(panel, "SEARCH_DELAY_SECONDS", PATIENCE)
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("slash", *"tomat")
        monkeypatch.setattr(panel, "SEARCH_DELAY_SECONDS", 0.01)
        await pilot.press("o")
        await until(pilot, lambda: showing_hits(app))
        assert asked == ["tomato"]


async def test_the_newest_words_win_and_one_search_runs_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = garden()
    whole, go, running = store.search, threading.Event(), []

    def slow(words: str, *limit: int, part: StreamedPart = "text") -> list[ChatSearchHit]:
        if part == "text":
            running.append(words)
            if words == "water":
                assert go.wait(PATIENCE)
        return whole(words, *limit, part=part)

    monkeypatch.setattr(store, "search", slow)
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        await enter_words(pilot, app, "water")
        await until(pilot, lambda: running)
        app.query_one(SearchBox).value = "prune"
        await pilot.pause(0.4)
        assert running == ["water"]
        go.set()
        await until(pilot, lambda: showing_hits(app))
        assert running == ["water", "prune"]
        assert hits_of(app) == ["Messages", "Roses\nyou When to prune?"]


async def test_leaving_while_a_search_runs_shows_no_hits(monkeypatch: pytest.MonkeyPatch) -> None:
    store = garden()
    whole, go = store.search, threading.Event()
    begun = threading.Event()

    def slow(words: str, *limit: int, part: StreamedPart = "text") -> list[ChatSearchHit]:
        begun.set()
        assert go.wait(PATIENCE)
        return whole(words, *limit, part=part)

    monkeypatch.setattr(store, "search", slow)
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        await enter_words(pilot, app, "water")
        await pilot.press("enter")
        await until(pilot, begun.is_set)
        await pilot.press("escape")
        go.set()
        await pilot.pause(0.3)
        assert not app.query_one(HitList).display


async def test_a_search_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    store = garden()

    def broken(words: str, *limit: int, part: StreamedPart = "text") -> list[ChatSearchHit]:
        raise StoreError("The disk failed.", hint="Check it.")

    monkeypatch.setattr(store, "search", broken)
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        app.panel.search("water")
        await until(pilot, lambda: toasts(app))
        assert toasts(app) == ["The disk failed.\nCheck it."]


async def test_hits_follow_what_changes_in_the_chats() -> None:
    store = garden()
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        app.panel.search("water")
        await until(pilot, lambda: app.focused is app.query_one(HitList))
        await pilot.press("down")
        before = app.query_one(HitList).highlighted
        app.panel.reload(None, None)
        await pilot.pause(0.3)
        assert app.query_one(HitList).highlighted == before
        store.rename(1, "Vegetables")
        app.panel.reload(None, None)
        await until(pilot, lambda: "Vegetables\nyou How much water?" in hits_of(app))


async def test_a_long_message_shows_the_words_that_were_found() -> None:
    store = Store(None)
    chat(store, "Long", said="before " * 90 + "needle " + "after " * 90)
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        app.panel.search("needle")
        await until(pilot, lambda: showing_hits(app))
        assert "needle" in plain(app.query_one(HitList))
        said = hits_of(app)[1].split("\n")[1]
        assert said.startswith("you …")
        assert said.endswith("…")
        assert len(said) < 80


async def test_typing_at_once_after_the_search_key_is_not_taken_for_commands() -> None:
    store = store_with("d", "u", "p")
    app = PanelApp(store)
    async with app.run_test(size=SIZE) as pilot:
        for key in ("slash", *"dpur"):
            app.simulate_key(key)
        await until(pilot, lambda: app.query_one(SearchBox).value == "dpur")
        assert [each.title for each in store.list_conversations()] == ["d", "u", "p"]


async def test_hostile_texts_are_looked_for_and_found_safely(shared_data: Path) -> None:
    texts = [text for text in hostile_texts(shared_data) if text.strip()]
    store = Store(None)
    for number, text in enumerate(texts):
        chat(store, text, said=f"needle{number} {text}")
    app = PanelApp(store)
    async with app.run_test(size=(40, 60)) as pilot:
        for number, text in enumerate(texts):
            hits = store.search(f"needle{number}")
            app.query_one(HitList).show_hits(hits, text)
            assert f"needle{number}" in str(app.query_one(HitList).options[1].prompt)
            app.query_one(HitList).show_hits([], text)
        for text in texts[::10]:
            with app.panel.prevent(Input.Changed):
                app.query_one(SearchBox).value = text
            assert_safe(app.query_one(SearchBox).value)
        app.panel.search("needle")
        await until(pilot, lambda: showing_hits(app))
        hits_list = app.query_one(HitList)
        for top in range(0, hits_list.virtual_size.height, 50):
            hits_list.scroll_to(y=top, animate=False, immediate=True)
            await pilot.pause()
            assert_safe("\n".join(drawn(hits_list)))


async def test_ten_thousand_chats_are_searched_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "chats.db")
    app = PanelApp(store)
    search, may_begin = store.search, threading.Event()

    def when_allowed(words: str, *limit: int, part: StreamedPart = "text") -> list[ChatSearchHit]:
        assert may_begin.wait(PATIENCE), "the screen waited for the search"
        return search(words, *limit, part=part)

    monkeypatch.setattr(store, "search", when_allowed)
    with store._database.write_transaction() as db:
        db.executemany(
            "INSERT INTO conversation (title, system, created, updated) VALUES (?, '', ?2, ?2)",
            [(f"Chat {number}", "2026-10-01T00:00:00+00:00") for number in range(10_000)],
        )
        db.execute(
            "INSERT INTO turn (conversation_id, position, content, created)"
            " SELECT id, 0, 'Some words about a garden and number ' || id, created"
            " FROM conversation"
        )
    async with app.run_test(size=SIZE) as pilot:
        app.panel.search("garden 77")
        await pilot.press("down")
        may_begin.set()
        await until(pilot, lambda: showing_hits(app))
        assert "number 77" in "".join(hits_of(app))
    store.close()


async def test_a_query_behind_a_tilde_is_searched_by_meaning() -> None:
    store = garden()
    asked: list[str] = []
    go = threading.Event()
    (hit,) = store.search("March")

    def search(
        query: str, progress: Callable[[int, int], None], is_cancelled: Callable[[], bool]
    ) -> list[ChatSearchHit]:
        asked.append(query)
        progress(1_200, 3_400)
        assert go.wait(PATIENCE)
        return [dataclasses.replace(hit, spans=[])] if query == "cutting flowers" else []

    app = PanelApp(store, search)
    async with app.run_test(size=SIZE) as pilot:
        await enter_words(pilot, app, "~ cutting flowers")
        await until(pilot, lambda: hits_of(app) == ["Reading new messages: 1,200 of 3,400"])
        go.set()
        await until(pilot, lambda: hits_of(app) == ["Messages", "Roses\nreply In March."])
        await pilot.press("enter")
        await until(pilot, lambda: app.posted)
        assert app.posted == [ChatList.ChatOpened(3, hit.turn_id)]
        await enter_words(pilot, app, "~stars")
        await until(pilot, lambda: hits_of(app) == ["Nothing similar to “stars”."])
        assert asked == ["cutting flowers", "stars"]
        await enter_words(pilot, app, "~")
        await until(pilot, lambda: hits_of(app) == ["Describe what you are looking for."])


async def test_an_embedder_that_is_missing_or_fails_is_named() -> None:
    errors: list[Exception] = [UsageError("No plugin offers the service embedder."), ValueError()]

    def search(
        query: str, progress: Callable[[int, int], None], is_cancelled: Callable[[], bool]
    ) -> list[ChatSearchHit]:
        raise errors.pop(0)

    app = PanelApp(garden(), search)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await enter_words(pilot, app, "~soup")
        await until(pilot, lambda: "No plugin offers the service embedder." in toasts(app))
        await until(pilot, lambda: hits_of(app) == ["The search failed."])
        await enter_words(pilot, app, "~more soup")
        await until(pilot, lambda: any("Something went wrong" in each for each in toasts(app)))


async def test_a_search_by_meaning_ends_with_its_query() -> None:
    ended = threading.Event()

    def search(
        query: str, progress: Callable[[int, int], None], is_cancelled: Callable[[], bool]
    ) -> list[ChatSearchHit]:
        wait_until(is_cancelled)
        ended.set()
        raise Cancelled("The search was stopped.")

    app = PanelApp(garden(), search)
    async with app.run_test(size=SIZE) as pilot:
        await enter_words(pilot, app, "~soup")
        await until(pilot, lambda: app.panel._search_running)
        await enter_words(pilot, app, "much water")
        await until(pilot, lambda: "Messages" in hits_of(app))
        assert ended.is_set()
        assert hits_of(app)[1] == "Plants\nyou How much water?"
