"""Selecting turns, flipping versions, marks of context policies, and long chats."""

from __future__ import annotations

import pytest
from textual.color import Color

from chatlm.tui import commands, formatting
from chatlm.tui.chat.turn_column import (
    PAGE_SIZE,
    BetweenMarker,
    EarlierMarker,
    NewerMarker,
)
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.chat.welcome import Welcome
from chatlm.types.conversations import ContextPolicy, Turn
from chatlm.types.messages import Message
from chatlm.types.replies import Reply, StopReason
from tests.tui.board import (
    BoardApp,
    at_rest,
    in_sight,
    line_of,
    selects,
    settled,
    shows,
    turn,
    turns,
)
from tests.tui.support import plain, until

SIZE = (80, 24)
TALL = "\n\n".join(f"Paragraph {number}" for number in range(40))


def hint_of(view: TurnView) -> str:
    return " · ".join(hint.plain for hint in view.hints)


async def test_a_selected_turn_names_its_keys_and_looks_different() -> None:
    app = BoardApp(turns(2))
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        first, second = app.views
        height, plain_colour = second.outer_size.height, second.styles.background
        app.transcript.select_turn(second)
        await pilot.pause()
        assert hint_of(second) == "c copy · e edit · i details · x prompt · f fork · ? all keys"
        assert second.styles.background != plain_colour
        assert second.outer_size.height == height, "what is below stays where it is"
        await pilot.press("up")
        await pilot.pause()
        assert first.has_focus


async def test_the_hint_fits_80_columns_with_all_keys() -> None:
    app = BoardApp([turn(1, "One.", "Two.")])
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        app.transcript.select_turn(app.views[0])
        await pilot.pause()
        hint = hint_of(app.views[0])
        assert hint == "c copy · e edit · ←→ versions · i details · x prompt · f fork · ? all keys"
        assert len(hint) < 80


async def test_arrows_and_letters_walk_and_the_ends_are_the_ends() -> None:
    app = BoardApp(turns(6))
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        app.transcript.select_turn(app.views[-1])
        seen = []
        for key in ("up", "k", "up", "down", "j", "home", "up", "end", "down"):
            await pilot.press(key)
            await pilot.pause()
            seen.append(app.selected)
            selected = app.transcript.selected_view
            assert selected is not None
            assert in_sight(app, selected)
        assert seen == [4, 3, 2, 3, 4, 0, 0, 5, 5]


async def test_a_click_selects_and_the_keys_of_a_turn_reach_the_screen() -> None:
    app = BoardApp(turns(2))
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        await pilot.click(app.views[0].query_one(".user"))
        assert app.selected == 0
        with_keys = [command for command in commands.TURN if command.key]
        keys = [command.key.split(",")[0] for command in with_keys]
        await pilot.press(*keys, "question_mark")
        names = [command.name for command in with_keys]
        assert app.board.asked == [(name, 0) for name in [*names, "help"]]
        await pilot.press("tab")
        assert app.selected != 0, "tab is not kept"


async def test_without_a_selected_turn_the_newest_is_meant() -> None:
    app = BoardApp(turns(3))
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        assert app.selected is None
        assert app.transcript.selected_view is app.views[-1]
    app = BoardApp([])
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        assert app.transcript.selected_view is None
        assert app.transcript.query(Welcome)


async def test_walking_shows_all_of_a_high_turn_before_it_leaves_it() -> None:
    app = BoardApp([turn(1, "Short."), turn(2, TALL), turn(3, "Short.")])
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        app.transcript.select_turn(app.views[0])
        await pilot.pause()
        await pilot.press("down")
        await pilot.pause()
        assert app.selected == 2
        assert app.views[1].region.y == app.transcript.content_region.y
        steps = 0
        while app.selected == 2:
            await pilot.press("down")
            await pilot.pause()
            steps += 1
        assert app.selected == 3
        assert steps > 5
        await pilot.press("up")
        await pilot.pause()
        assert app.selected == 2
        assert app.views[1].region.bottom <= app.transcript.content_region.bottom
        await pilot.press("pageup")
        assert app.selected == 2, "pages scroll and select nothing"


async def test_versions_are_flipped_with_keys_and_mouse() -> None:
    app = BoardApp([turn(1, "First.", "Second.", "Third.")])
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        view = app.views[0]
        assert "Third." in plain(view)
        assert line_of(view).startswith("‹ 3/3 › · 48 tokens")
        app.transcript.select_turn(view)
        for key, text in (("left", "Second."), ("left", "First."), ("left", "First.")):
            await pilot.press(key)
            await shows(pilot, view, text)
        assert view.turn.reply is not None
        assert (view.turn.reply.version, view.adjacent_version(-1)) == (1, None)
        line = view.query_one(".line")
        at = plain(line).index("›") + line.styles.padding.left
        await pilot.click(line, offset=(at, 0))
        await until(pilot, lambda: "Second." in plain(view))
        assert line_of(view).startswith("‹ 2/3 ›")


async def test_flipping_keeps_the_place() -> None:
    app = BoardApp([*turns(4), turn(9, TALL, "Short.", TALL + "\n\nMore.")])
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        view, transcript = app.views[-1], app.transcript
        await until(pilot, lambda: transcript.max_scroll_y > 0)
        app.board.set_focus(view, scroll_visible=False)
        for key in ("left", "right", "left", "left", "right", "right"):
            await pilot.press(key)
            await pilot.pause()
            assert view.region.y >= 1 or view.region.bottom == transcript.content_region.bottom
        transcript.scroll_to_widget(view, top=True, animate=False)
        await pilot.pause()
        for key in ("left", "left", "right", "right"):
            await pilot.press(key)
            await pilot.pause()
            assert view.region.y >= 1, "the beginning stays in sight"


async def test_flipping_between_high_versions_moves_no_row() -> None:
    app = BoardApp([*turns(4), turn(9, TALL, TALL + "\n\nMore."), *turns(2)])
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        view = app.views[4]
        app.transcript.select_turn(view)
        await pilot.pause()
        row = view.region.y
        assert row == 1
        for key in ("left", "right", "left"):
            await pilot.press(key)
            await pilot.pause()
            assert view.region.y == row


async def test_a_reply_that_grows_has_no_other_versions_until_it_ends() -> None:
    first = turn(1, "First.", "Second.")
    app = BoardApp([first])
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        view = app.views[0]
        await view.begin_reply(Reply(13, 3))
        await view.append_text("Thi")
        await view.append_text("rd.")
        view.show_activity("writing · 2 tokens")
        assert view.adjacent_version(-1) is None
        assert view.reply_text == "Third."
        await view.show_turn(turn(1, "First.", "Second.", "Third."))
        await pilot.pause()
        assert view.adjacent_version(-1) == first.replies[1]
        assert line_of(view).startswith("‹ 3/3 ›")


async def test_what_is_not_read_says_so_and_is_grey() -> None:
    app = BoardApp(
        [
            turn(1, "One."),
            turn(2, "Two.", context_policy=ContextPolicy.PINNED),
            turn(3, "Three.", context_policy=ContextPolicy.DROPPED),
            turn(
                4, "Four.", context_policy=ContextPolicy.SUMMARISED, summary="It was [b]four[/b]."
            ),
            turn(5, "Five.", context_policy=ContextPolicy.SUMMARISED),
        ]
    )
    async with app.run_test(size=(80, 48)) as pilot:
        await settled(pilot, app)
        app.transcript.mark_omitted({1})
        await pilot.pause()
        starts = [line_of(view).split(" · ")[0] for view in app.views]
        assert starts == [
            "outside the context, which is full",
            "pinned: always in the context",
            "dropped from the context",
            "replaced by its summary",
            "48 tokens",
        ]
        grey = [view.query_one(".user").styles.opacity < 1 for view in app.views]
        assert grey == [True, False, True, True, False]
        assert "Summary  It was [b]four[/b]." in plain(app.views[3])
        app.transcript.mark_omitted(())
        await app.transcript.update_turn(turn(4, "Four."))
        await pilot.pause()
        assert line_of(app.views[0]).startswith("48 tokens")
        assert "Summary" not in plain(app.views[3])
        assert app.views[3].query_one(".user").styles.opacity == 1


@pytest.mark.parametrize(
    ("policy", "outside", "words"),
    [
        (ContextPolicy.AUTO, False, ""),
        (ContextPolicy.AUTO, True, "outside the context, which is full"),
        (ContextPolicy.PINNED, False, "pinned: always in the context"),
        (ContextPolicy.DROPPED, True, "dropped from the context"),
        (ContextPolicy.SUMMARISED, False, "replaced by its summary"),
        (ContextPolicy.SUMMARISED, True, "outside the context, which is full"),
    ],
)
def test_how_a_turn_is_read(policy: ContextPolicy, outside: bool, words: str) -> None:
    one = turn(1, "x", context_policy=policy, summary="y")
    assert formatting.context_status(one, omitted=outside) == words


async def test_a_badge_says_that_there_is_more_below_and_leads_there() -> None:
    app = BoardApp(turns(8))
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        transcript, badge = app.transcript, app.transcript.query_one(NewerMarker)
        await until(pilot, lambda: transcript.max_scroll_y > 0)
        assert not badge.display
        transcript.scroll_page_up(animate=False)
        await pilot.pause()
        assert badge.display
        assert plain(badge) == "↓ more below"
        kept = transcript.scroll_y
        await transcript.add_notice("Something was added.")
        await pilot.pause()
        assert transcript.scroll_y == kept
        await pilot.click(badge)
        await pilot.pause()
        assert transcript.scroll_y == transcript.max_scroll_y
        assert not badge.display
        end = transcript.max_scroll_y
        await transcript.add_notice("More.")
        await until(pilot, lambda: transcript.max_scroll_y > end)
        assert transcript.scroll_y == transcript.max_scroll_y, "it follows again"
        assert not badge.display


async def test_a_long_chat_draws_one_page_and_any_turn_on_demand() -> None:
    chat = turns(500)
    app = BoardApp(chat)
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        assert len(app.views) == PAGE_SIZE
        for number in (3, 250, 499, 0):
            view = await app.transcript.reveal_turn(number)
            await pilot.pause()
            assert view is not None
            assert app.selected == number
            assert in_sight(app, view)
            assert app.views[-1].turn.id == 499, "the newest is always there"
            assert len(app.views) <= PAGE_SIZE + 1
        assert await app.transcript.reveal_turn(1000) is None
        assert plain(app.transcript.query_one(BetweenMarker)) == f"↕ {499 - PAGE_SIZE} more turns"
        await pilot.press("end")
        await until(pilot, lambda: app.selected == 499)
        assert not app.transcript.query_one(BetweenMarker).display
        assert [view.turn.id for view in app.views] == list(range(500 - PAGE_SIZE, 500))


async def test_walking_and_scrolling_from_a_revealed_turn_come_to_every_other() -> None:
    app = BoardApp(turns(60))
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        await app.transcript.reveal_turn(20)
        await pilot.pause()
        for number in range(21, 60):
            await pilot.press("down")
            await selects(pilot, app, number)
        for number in range(58, -1, -1):
            await pilot.press("up")
            await selects(pilot, app, number)
        assert not app.transcript.query_one(EarlierMarker).display
        assert len(app.views) < 45, "those far away are let go"


async def test_scrolling_down_from_a_revealed_turn_leaves_none_out() -> None:
    app = BoardApp(turns(60))
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        await app.transcript.reveal_turn(5)
        await at_rest(pilot, app)
        seen: set[int] = set()
        for _ in range(60):
            seen |= {
                view.turn.id
                for view in app.views
                if view.region.overlaps(app.transcript.content_region)
            }
            app.transcript.scroll_relative(y=8, animate=False, immediate=True)
            await at_rest(pilot, app)
        assert seen >= set(range(5, 60))


async def test_changes_and_marks_reach_turns_that_are_not_drawn() -> None:
    app = BoardApp(turns(40))
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        app.transcript.mark_omitted({1})
        await app.transcript.update_turn(turn(2, "Changed.", context_policy=ContextPolicy.PINNED))
        await app.transcript.reveal_turn(1)
        await pilot.pause()
        by_id = {view.turn.id: view for view in app.views}
        assert line_of(by_id[1]).startswith("outside the context")
        assert "Changed." in plain(by_id[2])


async def test_a_new_turn_scrolls_to_the_end_from_anywhere() -> None:
    app = BoardApp(turns(60))
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        await app.transcript.reveal_turn(5)
        await pilot.pause()
        assert app.transcript.query_one(BetweenMarker).display
        view = await app.transcript.add_turn(Turn(99, 99, Message("user", "New?")))
        await pilot.pause()
        assert app.transcript.newest_view is view
        assert app.views[-2].turn.id == 59
        assert in_sight(app, view)
        assert "answer" in line_of(view)
        assert "answer" not in line_of(app.views[-2])


async def test_many_turns_in_a_row_do_not_all_stay_drawn() -> None:
    app = BoardApp([])
    async with app.run_test(size=SIZE) as pilot:
        for number in range(40):
            await app.transcript.add_turn(turn(number, "Answer."))
            await pilot.pause()
        assert len(app.views) < 25
        assert app.transcript.query_one(EarlierMarker).display
        assert {view.turn.id for view in app.views} == set(range(40 - len(app.views), 40))


async def test_a_high_screen_is_filled() -> None:
    app = BoardApp(turns(60))
    async with app.run_test(size=(80, 120)) as pilot:
        await settled(pilot, app)
        await until(pilot, lambda: app.transcript.max_scroll_y > 0)
        assert app.transcript.scroll_y == app.transcript.max_scroll_y
        assert not app.transcript.query_one(NewerMarker).display


async def test_an_error_stands_below_and_only_the_newest_offers_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pressed = []

    async def press(app: BoardApp, key: str) -> None:
        pressed.append(key)

    monkeypatch.setattr(BoardApp, "action_simulate_key", press)
    failed = Reply(1, 1, "Half", StopReason.ERROR, error="The \x1b[31mmodel broke.")
    app = BoardApp([Turn(n, n, Message("user", "Hi"), (failed,)) for n in range(2)])
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        old, new = app.views
        assert line_of(old) == "failed\nThe ␛[31mmodel broke."
        assert line_of(new) == "failed · ctrl+g continue\nThe ␛[31mmodel broke."
        line = new.query_one(".line")
        at = plain(line).index("continue") + line.styles.padding.left
        await pilot.click(line, offset=(at + 1, line.styles.padding.top))
        assert pressed == ["ctrl+g"]
        assert isinstance(new.styles.background, Color)


def test_the_turns_keys_and_those_that_walk_do_not_collide() -> None:
    keys = [key for c in (*commands.TURN, *commands.TURN_NAVIGATION) for key in c.key.split(",")]
    assert len(keys) == len(set(keys))
    assert TurnView.can_focus
