"""Ranking several answers on the screen, and the views of the ratings."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

import chatlm_arena.plugin
from chatlm import Sampling, Setup
from chatlm.testing import scripted_screen
from chatlm_arena.screens.leaderboard import LeaderboardScreen
from chatlm_arena.screens.ranking import RankingScreen, RankingState
from chatlm_arena.store import store as store_module
from chatlm_arena.views import VIEWS
from chatlm_arena.votes import Verdict
from tests.plugins.arena import played, two
from tests.plugins.ui import RememberingUi
from tests.tui.cards import CardApp, SnapCompare, both_sizes, everything_visible, still
from tests.tui.support import StillEngine, plain, until

NAMES = ("hot", "warm", "cold")


@pytest.fixture
def three(home: Path) -> None:
    with store_module.open_arena_store() as store:
        for name, temperature in zip(NAMES, (1.3, 0.7, 0.0), strict=True):
            store.add_contestant(name, Setup(sampling=Sampling(temperature=temperature)))


def ranking(*pieces: str, stand_after: int | None = None) -> tuple[CardApp, RankingScreen, Any]:
    engine = StillEngine(*pieces, stand_after=stand_after)
    shown = RankingScreen(RememberingUi("arena", engine=engine), random.Random(3))
    return CardApp(shown), shown, engine


async def ready(pilot: Pilot[None], shown: RankingScreen, state: RankingState) -> None:
    await until(pilot, lambda: shown.state is state and shown.keys_armed)


async def ask(
    pilot: Pilot[None], shown: RankingScreen, text: str, then: RankingState = RankingState.RANKING
) -> None:
    await until(pilot, lambda: shown.query(Input))
    shown.query_one(Input).value = text
    await pilot.press("enter")
    await ready(pilot, shown, then)


def notice(shown: RankingScreen) -> str:
    return plain(shown.query_one("#status", Static))


async def test_a_ranking(three: None) -> None:
    app, shown, engine = ranking("I", " am", " hot", " or", " cold.")
    async with app.run_test(size=(120, 30)) as pilot:
        await ask(pilot, shown, "Who are you?")
        seen = everything_visible(pilot)
        assert "I am ▒▒▒ or ▒▒▒." in seen
        assert "Elo" not in seen
        await pilot.press("2", "1", "backspace", "3", "equals_sign", "1")
        assert notice(shown) == "2 > 3 = 1"
        assert [str(shown._pane(at).border_subtitle) for at in range(3)] == [
            "place 2", "place 1", "place 2",
        ]  # fmt: skip
        await pilot.press("enter")
        await ready(pilot, shown, RankingState.REVEALED)
        titles = [str(shown._pane(at).border_title) for at in range(3)]
        assert sorted(title.split(". ")[1] for title in titles) == sorted(NAMES)
        assert [title[0] for title in titles] == ["2", "1", "2"]
        await pilot.press("enter")
        await ready(pilot, shown, RankingState.MESSAGE)
    best = titles[1].split(". ")[1]
    with store_module.open_arena_store() as store:
        ballots = store.ballots()
        assert len(ballots) == 3
        winners = [
            ballot.left if ballot.verdict == "left" else ballot.right
            for ballot in ballots
            if ballot.verdict != "tie"
        ]
        assert winners == [best, best]
        assert {fact.prompt for fact in store.vote_facts()} == {"Who are you?"}
    assert len(engine.requests) == 3


async def test_the_last_one_is_placed_by_itself_and_undo_takes_all_back(three: None) -> None:
    app, shown, _ = ranking("Hi.")
    async with app.run_test() as pilot:
        await ask(pilot, shown, "Hello?")
        await pilot.press("3", "enter")
        assert shown.state is RankingState.RANKING  # two are left
        await pilot.press("1", "enter")
        await ready(pilot, shown, RankingState.REVEALED)
        await pilot.press("u")
        await until(pilot, lambda: "Undone" in notice(shown))
    with store_module.open_arena_store() as store:
        assert store.ballots() == []


async def test_a_stopped_ranking_has_no_votes(three: None) -> None:
    app, shown, engine = ranking("one", " two", stand_after=1)
    async with app.run_test() as pilot:
        await ask(pilot, shown, "Count.", RankingState.ANSWERING)
        await until(pilot, lambda: "one" in everything_visible(pilot))
        await pilot.press("escape")
        engine.go.set()
        await ready(pilot, shown, RankingState.FAILED)
        assert "Stopped before all had answered" in notice(shown)
        await pilot.press("enter")
        await ready(pilot, shown, RankingState.MESSAGE)
    with store_module.open_arena_store() as store:
        assert store.ballots() == []


async def test_one_contestant_is_not_enough(home: Path) -> None:
    app, shown, _ = ranking("Hi.")
    async with app.run_test() as pilot:
        await ask(pilot, shown, "Hello?", RankingState.MESSAGE)
        await until(pilot, lambda: "needs two contestants" in notice(shown))


async def test_ranking_in_the_chat(three: None) -> None:
    async with scripted_screen(chatlm_arena.plugin, replies=["a"]) as shown:
        await shown.submit("/arena rank")
        await until(shown.pilot, lambda: isinstance(shown.app.screen, RankingScreen))
        await until(shown.pilot, lambda: "3 set-ups answer" in shown.text())
        assert shown.faults == []


async def test_every_view_of_the_ratings(home: Path) -> None:
    with store_module.open_arena_store() as store:
        hot, cold = two(store)
        for number in range(24):
            played(store, hot, cold, Verdict.LEFT if number % 3 else Verdict.RIGHT)
    expected = {
        "ratings": "Not enough votes yet",
        "ties": "Ties modelled: 0% of 24 votes",
        "style": "Not controlled: length, position",
        "checks": "Drop-k: 9 of 24 votes",
        "judges": "No model has judged anything yet",
        "aspects": "No answer has been rated yet",
        "speed": "No reply of a rated contestant has a known time yet",
    }
    assert set(expected) == set(VIEWS)
    board = LeaderboardScreen()
    async with CardApp(board).run_test(size=(120, 36)) as pilot:
        for number, (view, text) in enumerate(expected.items(), 1):
            await until(pilot, lambda: board.query("#ratings"))
            await pilot.press(str(number))
            await until(
                pilot,
                lambda view=view, text=text: (
                    board.shown_view == view  # type: ignore[misc]
                    and text in plain(board.query_one("#ratings", Static))
                ),
            )


@both_sizes
def test_picture_of_a_ranking(
    three: None, size: tuple[int, int], snap_compare: SnapCompare
) -> None:
    """Look at: numbered answers without names, places in the frames, the order, the keys."""
    app, shown, _ = ranking("Grey", " is", " what", " ash", " looks", " like.")

    async def steps(pilot: Pilot[None]) -> None:
        await ask(pilot, shown, "Name a colour, and say what has it.")
        await pilot.press("2", "3")

    assert snap_compare(app, terminal_size=size, run_before=still(steps))


@both_sizes
def test_picture_of_the_checks(
    home: Path, size: tuple[int, int], snap_compare: SnapCompare
) -> None:
    """Look at: drop-k with the votes to drop, whether to go on, and warnings."""
    with store_module.open_arena_store() as store:
        hot, cold = two(store)
        for number in range(40):  # not by the user, whose speed would be judged
            verdict = Verdict.LEFT if number % 3 else Verdict.RIGHT
            store.add_vote(played(store, hot, cold), verdict, "a friend")
    board = LeaderboardScreen()

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: board.query("#ratings"))
        await pilot.press("4")
        await until(pilot, lambda: "Drop-k" in plain(board.query_one("#ratings", Static)))

    assert snap_compare(CardApp(board), terminal_size=size, run_before=still(steps))
