"""The list of chats, changing between them, incognito, long chats and scrolling."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot

from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from chatlm.tui.chat.status import StatusBar
from chatlm.tui.chat.transcript import Transcript
from chatlm.tui.chat.turn_column import PAGE_SIZE as TURNS
from chatlm.tui.chat.turn_column import EarlierMarker
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.chat.welcome import Suggestion, Welcome
from chatlm.tui.chat_list.chat_list import PAGE_SIZE
from chatlm.tui.chat_list.panel import ChatsPanel, HitList
from chatlm.types.replies import StopReason, Usage
from tests.tui.support import (
    StillEngine,
    app_of,
    chat_of,
    chats_of,
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

WIDE = (140, 40)


def store_with(*titles: str, answered: bool = True) -> Store:
    store = Store(None)
    for title in titles:
        turn = store.add_turn(store.create_conversation(title).id, f"About {title}")
        if answered:
            add_reply(store, turn.id, f"That was {title}")
    return store


def add_reply(store: Store, turn_id: int, text: str, *, finished: bool = True) -> None:
    reply = store.start_reply(turn_id, model="scripted")
    if finished:
        store.finish_reply(
            reply.id, text=text, stop_reason=StopReason.END, usage=Usage(9, 0, 21, 0.25, 1.0)
        )
    else:
        store.journal_reply(reply.id, text)


def panel_of(pilot: Pilot[None]) -> ChatsPanel:
    return app_of(pilot).chat_screen.query_one(ChatsPanel)


async def test_the_list_is_newest_first_and_enter_opens() -> None:
    async with make_app(store=store_with("Old", "New")).run_test(size=WIDE) as pilot:
        await pilot.pause()
        assert rows(pilot) == ["Today", "New", "Old"]
        await pilot.press("ctrl+l", "end", "enter")
        await until(pilot, lambda: chat_of(pilot).view.newest_view)
        assert "About Old" in plain(newest(pilot))
        assert app_of(pilot).focused is chat_of(pilot).composer
        assert panel_of(pilot).display


async def test_a_click_opens_a_chat() -> None:
    async with make_app(store=store_with("Old", "New")).run_test(size=WIDE) as pilot:
        await pilot.pause()
        await pilot.click(chats_of(pilot), offset=(4, 1))
        await until(pilot, lambda: chat_of(pilot).view.newest_view)
        assert "About New" in plain(newest(pilot))


async def test_the_list_hides_below_100_columns_and_comes_with_its_key() -> None:
    async with make_app(store=store_with("One")).run_test(size=(99, 24)) as pilot:
        await pilot.pause()
        assert not panel_of(pilot).display
        await pilot.press("ctrl+l")
        assert panel_of(pilot).display
        assert app_of(pilot).focused is chats_of(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: chat_of(pilot).view.newest_view)
        assert not panel_of(pilot).display
        await pilot.press("ctrl+l", "ctrl+l")
        assert not panel_of(pilot).display
        assert app_of(pilot).focused is chat_of(pilot).composer


async def test_escape_goes_from_the_list_to_the_composer() -> None:
    async with make_app(store=store_with("One")).run_test(size=WIDE) as pilot:
        await pilot.press("ctrl+l")
        assert app_of(pilot).focused is chats_of(pilot)
        await pilot.press("escape")
        assert app_of(pilot).focused is chat_of(pilot).composer


async def test_escape_in_the_search_goes_back_to_the_composer_and_stops_no_reply() -> None:
    engine = StillEngine("One ", "two", stand_after=1)
    async with make_app(engine, store_with("Old")).run_test(size=WIDE) as pilot:
        await say(pilot, "Count")
        await until(pilot, lambda: "One" in plain(newest(pilot)))
        panel_of(pilot).search("old")
        await until(pilot, lambda: app_of(pilot).focused is panel_of(pilot).query_one(HitList))
        await pilot.press("escape")
        assert app_of(pilot).focused is chat_of(pilot).composer
        assert chat_of(pilot).busy
        engine.go.set()
        await idle(pilot)


async def test_a_new_chat_comes_into_the_list_when_it_has_a_message() -> None:
    store = store_with("Old")
    async with make_app(ScriptedEngine("Hi."), store).run_test(size=WIDE) as pilot:
        await pilot.press("ctrl+n")
        assert rows(pilot) == ["Today", "Old"]
        await say(pilot, "Hello there")
        await idle(pilot)
        assert rows(pilot) == ["Today", "Hello there", "Old"]


async def test_a_long_list_is_read_a_page_at_a_time_and_to_its_end_on_demand() -> None:
    store = store_with(*(f"Chat {number}" for number in range(3 * PAGE_SIZE)))
    async with make_app(store=store).run_test(size=WIDE) as pilot:
        await pilot.pause()
        assert len(rows(pilot)) < 2 * PAGE_SIZE
        await pilot.press("ctrl+l", "end")
        await pilot.pause()
        assert len(rows(pilot)) == 3 * PAGE_SIZE + 1
        assert rows(pilot)[-1] == "Chat 0"


async def test_an_unfinished_chat_is_marked_and_can_go_on() -> None:
    store = store_with("Lighthouse", answered=False)
    add_reply(store, 1, "It stood on a", finished=False)
    engine = ScriptedEngine(" rock.")
    app = make_app(engine, store, conversation_id=1)
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: chat_of(pilot).view.newest_view)
        assert rows(pilot)[1].startswith("◐")
        assert "It stood on a" in plain(newest(pilot))
        assert line(pilot) == "cut off when chatlm closed · ctrl+g continue"
        await pilot.press("ctrl+g")
        await idle(pilot)
        await until(pilot, lambda: "It stood on a rock." in plain(newest(pilot)))
        assert not rows(pilot)[1].startswith("◐")


async def test_a_turn_without_a_reply_can_be_answered() -> None:
    app = make_app(ScriptedEngine("Late."), store_with("One", answered=False), conversation_id=1)
    async with app.run_test() as pilot:
        await until(pilot, lambda: chat_of(pilot).view.newest_view)
        assert line(pilot) == "not answered · ctrl+r answer"
        await pilot.press("ctrl+r")
        await idle(pilot)
        assert "Late." in plain(newest(pilot))


async def test_only_the_newest_turn_offers_to_go_on() -> None:
    store = store_with("One", answered=False)
    add_reply(store, 1, "Half", finished=False)
    app = make_app(ScriptedEngine("Whole."), store, conversation_id=1)
    async with app.run_test() as pilot:
        await until(pilot, lambda: chat_of(pilot).view.newest_view)
        await say(pilot, "Next")
        await idle(pilot)
        first, second = chat_of(pilot).view.query(TurnView)
        assert plain(first).endswith("cut off when chatlm closed")
        assert "Whole." in plain(second)


async def test_a_chat_that_is_gone_is_reported() -> None:
    app = make_app(conversation_id=12)
    async with app.run_test() as pilot:
        await until(pilot, lambda: notices(pilot))
        assert "no chat 12" in notices(pilot)[0]
        assert chat_of(pilot).view.query(Welcome)


async def test_a_reply_goes_on_while_another_chat_is_shown() -> None:
    store = store_with("Other")
    engine = StillEngine("One ", "two ", "three", stand_after=1)
    async with make_app(engine, store).run_test(size=WIDE) as pilot:
        await say(pilot, "Count")
        await until(pilot, lambda: "One" in plain(newest(pilot)))
        assert await chat_of(pilot).switch.open_chat(1)
        await until(pilot, lambda: "About Other" in plain(newest(pilot)))
        assert rows(pilot)[1].startswith("●")
        await say(pilot, "Me too")
        assert chat_of(pilot).composer.text == "Me too"

        assert await chat_of(pilot).switch.open_chat(2)
        await until(pilot, lambda: "One" in plain(newest(pilot)))
        assert line(pilot).startswith("writing")
        assert await chat_of(pilot).switch.open_chat(1)
        engine.go.set()
        await idle(pilot)
        assert "three" not in plain(chat_of(pilot).view.query_one(Transcript))
    reply = store.conversation(2).turns[0].reply
    assert reply is not None
    assert (reply.text, reply.stop_reason) == ("One two three", StopReason.END)


async def test_the_status_bar_is_about_the_version_that_is_shown() -> None:
    store = store_with("One", answered=False)
    for tokens, reason in ((11, StopReason.END), (21, StopReason.LENGTH)):
        reply = store.start_reply(1, model="m")
        usage = Usage(5, 0, tokens, 0.1, 1.0)
        store.finish_reply(reply.id, text=f"{tokens}", stop_reason=reason, usage=usage)
    async with make_app(store=store, conversation_id=1).run_test(size=WIDE) as pilot:
        bar = app_of(pilot).chat_screen.query_one(StatusBar)
        await until(pilot, lambda: "20.0 tokens/s" in plain(bar))
        await pilot.press("tab", "left", "escape")
        await until(pilot, lambda: "10.0 tokens/s" in plain(bar))
        await until(pilot, lambda: store.turn(1).active_reply_id == 1)


async def test_a_long_chat_opens_with_its_end_and_draws_more_above() -> None:
    store = Store(None)
    chat = store.create_conversation("Long")
    for number in range(2 * TURNS + 5):
        add_reply(store, store.add_turn(chat.id, f"Question {number}").id, f"Answer {number}")
    async with make_app(store=store, conversation_id=chat.id).run_test() as pilot:
        await until(pilot, lambda: len(chat_of(pilot).view.query(TurnView)) == TURNS)
        transcript = chat_of(pilot).view.query_one(Transcript)
        await until(pilot, lambda: transcript.max_scroll_y > 0)
        assert transcript.scroll_y == transcript.max_scroll_y
        assert plain(chat_of(pilot).view.query_one(EarlierMarker)) == f"↑ {TURNS + 5} earlier turns"

        first = chat_of(pilot).view.query(TurnView).first()
        transcript.scroll_home(animate=False)
        marker = chat_of(pilot).view.query_one(EarlierMarker)
        await until(pilot, lambda: plain(marker) == "↑ 5 earlier turns")
        await until(pilot, lambda: transcript.scroll_y > 0)
        assert 0 <= first.region.y <= 6, "what was read stays in its place"
        await pilot.pause()
        transcript.scroll_home(animate=False)
        await until(pilot, lambda: not chat_of(pilot).view.query_one(EarlierMarker).display)
        assert "Question 0" in plain(chat_of(pilot).view.query(TurnView).first())


async def test_the_transcript_follows_until_the_user_scrolls_up() -> None:
    engine = StillEngine(*["word\n\n"] * 40, stand_after=20)
    async with make_app(engine).run_test() as pilot:
        transcript = chat_of(pilot).view.query_one(Transcript)
        await say(pilot, "Go")
        await until(pilot, lambda: line(pilot).startswith("writing · 20"))
        assert transcript.scroll_y == transcript.max_scroll_y
        await pilot.press("pageup")
        await pilot.pause()
        kept = transcript.scroll_y
        assert kept < transcript.max_scroll_y
        seen = transcript.max_scroll_y
        engine.go.set()
        await until(pilot, lambda: transcript.max_scroll_y > seen + 5)
        assert transcript.scroll_y == kept
        await pilot.press(*["pagedown"] * 8)
        await idle(pilot)
        await until(pilot, lambda: transcript.scroll_y == transcript.max_scroll_y)


async def test_turning_pages_at_the_end_goes_on_following() -> None:
    engine = StillEngine(*["word\n\n"] * 40, stand_after=20)
    async with make_app(engine).run_test() as pilot:
        transcript = chat_of(pilot).view.query_one(Transcript)
        await say(pilot, "Go")
        await until(pilot, lambda: line(pilot).startswith("writing · 20"))
        await pilot.press("pageup", "pagedown", "pagedown", "pagedown")
        await until(pilot, lambda: transcript.scroll_y == transcript.max_scroll_y)
        seen = transcript.max_scroll_y
        engine.go.set()
        await idle(pilot)
        await until(pilot, lambda: transcript.scroll_y == transcript.max_scroll_y > seen + 5)


async def test_a_short_chat_stands_at_the_top() -> None:
    async with make_app(ScriptedEngine("Hi.")).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        assert newest(pilot).region.y < 4


async def test_a_suggestion_goes_into_the_composer() -> None:
    async with make_app().run_test() as pilot:
        await pilot.pause()
        await pilot.click(Suggestion)
        assert chat_of(pilot).composer.text == "What is the capital of France?"
        assert app_of(pilot).focused is chat_of(pilot).composer


@pytest.mark.parametrize("size", [(40, 12), (40, 60), (200, 12), (20, 6)])
async def test_small_and_odd_terminals(size: tuple[int, int]) -> None:
    async with make_app(ScriptedEngine("Hi.\n\n- a\n- b\n"), store_with("x" * 80)).run_test(
        size=size
    ) as pilot:
        await say(pilot, "Hello " * 30)
        await idle(pilot)
        await pilot.press("ctrl+l", "f1", "escape", "escape")
        await pilot.resize_terminal(size[0] // 2 + 10, size[1] // 2 + 3)
        await pilot.press("pageup", "pagedown")
        assert "Hi." in plain(newest(pilot))


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


async def test_deleting_the_chat_on_the_screen_is_reported_once() -> None:
    async with make_app(ScriptedEngine("Yes.")).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await say(pilot, "/delete")
        await until(pilot, lambda: chat_of(pilot).view.newest_view is None)
        await pilot.pause(0.1)
        assert len(toasts(pilot)) == 1
