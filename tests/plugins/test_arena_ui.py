"""The arena on the screen: a message, two answers, a vote, who it was."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from textual.events import Key
from textual.message import Message as TextualMessage
from textual.pilot import Pilot
from textual.widgets import Input, Static

import chatlm_arena.plugin
from chatlm import Conversation, Image, Reply, Sampling, Setup, Turn, UsageError
from chatlm.engines.scripted import ScriptedEngine
from chatlm.testing import ScriptedScreen, scripted_screen
from chatlm.types.messages import Message
from chatlm_arena import actions
from chatlm_arena.screens.leaderboard import LeaderboardScreen
from chatlm_arena.screens.match import ArenaPane, ArenaScreen, ArenaState
from chatlm_arena.screens.worker import AnswersEnded, MatchWorker
from chatlm_arena.settings import Settings
from chatlm_arena.store import store as store_module
from chatlm_arena.votes import Verdict
from tests import image_files
from tests.plugins.arena import HOT, played, two
from tests.plugins.ui import RememberingUi
from tests.tui.cards import CardApp, SnapCompare, both_sizes, everything_visible, still
from tests.tui.support import StillEngine, plain, until

SIDE_NAMES = ("left", "right")


@pytest.fixture
def pair(home: Path) -> None:
    with store_module.open_arena_store() as store:
        two(store)


def arena(*pieces: str, stand_after: int | None = None) -> tuple[CardApp, ArenaScreen, StillEngine]:
    engine = StillEngine(*pieces, stand_after=stand_after)
    shown = ArenaScreen(RememberingUi("arena", engine=engine), random.Random(3))
    return CardApp(shown), shown, engine


async def ask(
    pilot: Pilot[None], shown: ArenaScreen, text: str, then: ArenaState = ArenaState.VOTING
) -> None:
    await until(pilot, lambda: shown.query(Input))
    shown.query_one(Input).value = text
    await pilot.press("enter")
    await ready(pilot, shown, then)


async def ready(pilot: Pilot[None], shown: ArenaScreen, state: ArenaState) -> None:
    """Wait until the keys of this state work."""
    await until(pilot, lambda: shown.state is state and shown.keys_armed)


def side(shown: ArenaScreen, name: str) -> str:
    return plain(shown.query_one(f"#{name} #said", Static))


def notice(shown: ArenaScreen) -> str:
    return plain(shown.query_one("#status", Static))


async def test_a_match(pair: None) -> None:
    app, shown, engine = arena("I", " am", " hot", " or", " cold.")
    async with app.run_test(size=(120, 30)) as pilot:
        await ask(pilot, shown, "Who are you?")
        seen = everything_visible(pilot)
        assert "I am ▒▒▒ or ▒▒▒." in side(shown, "left")
        assert "temperature" not in seen
        assert "/s" not in seen
        assert "Elo" not in seen
        await pilot.press("l")
        await ready(pilot, shown, ArenaState.REVEALED)
        seen = everything_visible(pilot)
        names = [str(shown.query_one(f"#{name}", ArenaPane).border_title) for name in SIDE_NAMES]
        assert sorted(names) == ["cold", "hot"]
        assert "Elo 1500 → 1516 (+16)" in seen
        assert "Elo 1500 → 1484 (-16)" in seen
        assert "20 tokens" not in seen
        await pilot.press("enter")
        await ready(pilot, shown, ArenaState.FIRST_MESSAGE)
        assert side(shown, "left") == "Two of these answer, without their names: hot, cold."
    with store_module.open_arena_store() as store:
        (ballot,) = store.ballots()
        assert (ballot.left, ballot.verdict) == (names[0], "left")
        assert len(engine.requests) == 2


@pytest.mark.parametrize(
    ("key", "verdict"),
    [("l", "left"), ("1", "left"), ("r", "right"), ("2", "right"), ("t", "tie"), ("b", "both_bad")],
)
async def test_one_key_votes(pair: None, key: str, verdict: str) -> None:
    app, shown, _ = arena("Hi.")
    async with app.run_test() as pilot:
        await ask(pilot, shown, "Hello?")
        await pilot.press(key)
        await ready(pilot, shown, ArenaState.REVEALED)
    with store_module.open_arena_store() as store:
        assert [ballot.verdict for ballot in store.ballots()] == [verdict]


async def test_a_skipped_match_has_no_vote(pair: None) -> None:
    app, shown, _ = arena("Hi.")
    async with app.run_test() as pilot:
        await ask(pilot, shown, "Hello?")
        await pilot.press("s")
        await ready(pilot, shown, ArenaState.FIRST_MESSAGE)
    with store_module.open_arena_store() as store:
        assert store.ballots() == []
        assert store.match(1).left_replies[0].text == "Hi."


async def test_undo(pair: None) -> None:
    app, shown, _ = arena("Hi.")
    async with app.run_test() as pilot:
        await ask(pilot, shown, "Hello?")
        await pilot.press("u")
        await until(pilot, lambda: "There is no vote to undo." in notice(shown))
        await pilot.press("t")
        await ready(pilot, shown, ArenaState.REVEALED)
        await pilot.press("u")
        await until(pilot, lambda: "Undone" in notice(shown))
        assert shown.state is ArenaState.FIRST_MESSAGE
    with store_module.open_arena_store() as store:
        assert store.ballots() == []


async def test_a_second_message_and_again(pair: None) -> None:
    app, shown, engine = arena("Fine.")
    async with app.run_test() as pilot:
        await ask(pilot, shown, "How are you?")
        await pilot.press("a")
        await until(pilot, lambda: shown.keys_armed and len(engine.requests) == 4)
        await pilot.press("m")
        await ready(pilot, shown, ArenaState.NEXT_MESSAGE)
        await pilot.press("escape")
        await ready(pilot, shown, ArenaState.VOTING)
        await pilot.press("m")
        await ask(pilot, shown, "And now?")
        assert side(shown, "right").split() == [
            "How",
            "are",
            "you?",
            "Fine.",
            "And",
            "now?",
            "Fine.",
        ]
        assert [len(request.messages) for request in engine.requests] == [1, 1, 1, 1, 3, 3]


async def test_what_is_answered_again_is_gone_at_once(pair: None) -> None:
    app, shown, engine = arena("one", " two", stand_after=1)
    async with app.run_test() as pilot:
        engine.go.set()
        await ask(pilot, shown, "Count.")
        engine.go.clear()
        await pilot.press("a")
        await until(pilot, lambda: len(engine.requests) == 3)
        assert "two" not in side(shown, "left") + side(shown, "right")
        engine.go.set()
        await ready(pilot, shown, ArenaState.VOTING)


async def test_escape_stops_both(pair: None) -> None:
    app, shown, engine = arena("one", " two", " three", stand_after=2)
    async with app.run_test() as pilot:
        await ask(pilot, shown, "Count.", ArenaState.ANSWERING)
        await until(pilot, lambda: "one two" in side(shown, "left") + side(shown, "right"))
        await pilot.press("escape")
        await ready(pilot, shown, ArenaState.VOTING)
        assert "Stopped before both had answered" in notice(shown)
        await pilot.press("l")
        assert "both bad" not in everything_visible(pilot)
        assert shown.state is ArenaState.VOTING
        engine.go.set()
        await pilot.press("a")
        await until(pilot, lambda: "one two three" in side(shown, "left"))
        await ready(pilot, shown, ArenaState.VOTING)
        await pilot.press("r")
        await ready(pilot, shown, ArenaState.REVEALED)


def burst(pilot: Pilot[None], *keys: str) -> None:
    """Keys that come before the screen had time for the first of them."""
    for key in keys:
        event = Key(key, key if len(key) == 1 else None)
        event.set_sender(pilot.app)
        pilot.app.post_message(event)


@pytest.mark.parametrize("after", ["enter", "n", "u", "escape", "l"])
async def test_what_a_vote_shows_is_seen_before_a_key_acts_on_it(
    pair: None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, shown, _ = arena("Hi.")
    async with app.run_test() as pilot:
        await ask(pilot, shown, "Hello?")
        # however slow the machine is, the keys below come within the delay
        monkeypatch.setattr("chatlm_arena.screens.match.KEY_DELAY", 3600.0)
        burst(pilot, "l", after, after)
        await until(pilot, lambda: shown.state is ArenaState.REVEALED)
        await pilot.press(after)
        assert shown.state is ArenaState.REVEALED
        assert app.screen is shown
    with store_module.open_arena_store() as store:
        assert len(store.ballots()) == 1


async def test_keys_pressed_while_they_answer_do_not_vote(pair: None) -> None:
    app, shown, engine = arena("one", " two", stand_after=1)
    async with app.run_test() as pilot:
        await ask(pilot, shown, "Count.", ArenaState.ANSWERING)
        engine.go.set()
        while shown.state is ArenaState.ANSWERING:
            burst(pilot, "l", "s")
            await pilot.pause(0.001)
        burst(pilot, "l", "s", "escape")
        await pilot.pause()
        assert shown.state is ArenaState.VOTING
        assert app.screen is shown


async def test_escape_right_after_enter_stops_both(pair: None) -> None:
    app, shown, _ = arena("one", " two", stand_after=1)
    async with app.run_test() as pilot:
        await until(pilot, lambda: shown.query(Input))
        burst(pilot, "O", "k", "enter", "escape", "escape")
        await ready(pilot, shown, ArenaState.VOTING)
        assert "Stopped before both had answered" in notice(shown)
        assert side(shown, "left").startswith("Ok")
        assert app.screen is shown


async def test_without_contestants_it_says_how_to_add_them(home: Path) -> None:
    app, shown, _ = arena("Hi.")
    async with app.run_test() as pilot:
        await until(pilot, lambda: shown.query(Input))
        shown.query_one(Input).value = "Hello?"
        await pilot.press("enter")
        await until(pilot, lambda: "/arena add NAME" in notice(shown))
        assert shown.state is ArenaState.FIRST_MESSAGE
        assert shown.query_one(Input).value == "Hello?"


async def test_hostile_text_is_only_drawn(pair: None) -> None:
    app, shown, _ = arena("\x1b[31m[b]bold[/b]\x07", "\x9b2J")
    async with app.run_test(size=(120, 30)) as pilot:
        await ask(pilot, shown, "[red]x[/red]\x1b]0;t\x07")
        assert "␛[31m[b]bold[/b]␇⟨9B⟩2J" in side(shown, "left")
        assert "[red]x[/red]" in side(shown, "left")


async def test_hostile_names_are_only_drawn(home: Path) -> None:
    names = ("[/] [red]x", "[b]y[/b]]")
    with store_module.open_arena_store() as store:
        for name in names:
            store.add_contestant(name, Setup(system=f"[/bad] [red] {name}"))
    app, shown, _ = arena("Hi.")
    async with app.run_test(size=(120, 30)) as pilot:
        await ask(pilot, shown, "Who?")
        await pilot.press("l")
        await ready(pilot, shown, ArenaState.REVEALED)
        seen = everything_visible(pilot)
        assert all(name in seen for name in names)
        assert "system “[/bad] [red]" in seen


async def test_in_the_chat(home: Path) -> None:
    async with scripted_screen(chatlm_arena.plugin, replies=["a", "b"]) as shown:
        await shown.submit("/arena add one")
        assert any("Add one more to start a match" in notice for notice in shown.notifications)
        await shown.submit("/arena add one")
        assert any("already a contestant one" in notice for notice in shown.notifications)
        await shown.submit("/arena add two")
        assert any("one already has this set-up" in notice for notice in shown.notifications)
        with store_module.open_arena_store() as store:
            store.add_contestant("two", HOT)
        await shown.submit("/arena fly")
        await shown.submit("/arena")
        await on_top(shown, ArenaScreen)
        arena_screen: Any = shown.app.screen
        await ask(shown.pilot, arena_screen, "Hello?")
        await shown.press("l")
        await ready(shown.pilot, arena_screen, ArenaState.REVEALED)
        await shown.press("f")
        await on_top(shown, LeaderboardScreen)
        await until(shown.pilot, lambda: "unknown" in shown.text())
        await shown.press("escape")
        await shown.press("escape")
        assert shown.app.screen is shown.app.chat_screen
        assert shown.faults == []


async def on_top(shown: ScriptedScreen, kind: type[Any]) -> None:
    await until(shown.pilot, lambda: isinstance(shown.app.screen, kind))


async def test_a_damaged_arena_is_reported(home: Path) -> None:
    home.mkdir()
    (home / "arena.db").write_text("no database" * 100)
    async with scripted_screen(chatlm_arena.plugin) as shown:
        for command in ("/arena", "/arena ratings", "/arena add x"):
            await shown.submit(command)
            await until(shown.pilot, lambda: any("damaged" in each for each in shown.notifications))
            assert shown.app.screen is shown.app.chat_screen
        assert shown.faults == []


def test_the_chats_set_up_enters_the_arena(home: Path) -> None:
    reply = Reply(1, 1, "Arr.", adapter="pirate")
    chat = Conversation(
        1,
        system="Be brief.",
        turns=(Turn(1, 0, Message("user", "Hi"), (reply,)),),
        sampling=Sampling(temperature=0.2),
        plugin_data={"rag": {"index": "notes"}, "arena": {"x": 1}},
    )
    ui = RememberingUi("arena", chat, ScriptedEngine())
    actions.arena(ui, "add mine")
    with store_module.open_arena_store() as store:
        assert store.contestant("mine").setup == Setup(
            model="scripted",
            adapter="pirate",
            system="Be brief.",
            sampling=Sampling(temperature=0.2),
            plugin_data={"rag": {"index": "notes"}},
        )
    with pytest.raises(UsageError, match="not loaded yet"):
        actions.arena(RememberingUi("arena"), "add other")


@pytest.mark.parametrize("chosen", ["", "instruct"])
def test_the_adapter_that_is_chosen_now_enters_the_arena(home: Path, chosen: str) -> None:
    said = Turn(1, 0, Message("user", "Hi"), (Reply(1, 1, "Arr.", adapter="pirate"),))
    chat = Conversation(
        1, turns=(said,), plugin_data={"lora": {"adapter": chosen, "last": "pirate"}}
    )
    actions.arena(RememberingUi("arena", chat, ScriptedEngine()), "add mine")
    with store_module.open_arena_store() as store:
        setup = store.contestant("mine").setup
    assert setup is not None
    assert setup.adapter == chosen


def test_what_is_stopped_before_it_begins_does_not_go_on(pair: None) -> None:
    engine = StillEngine("I", " am", " hot.")
    posted: list[TextualMessage] = []
    with store_module.open_arena_store() as store:
        ui = RememberingUi("arena", engine=engine)
        chats = ui.side_chats(lambda words: None)
        work = MatchWorker(
            store, chats, Settings(), posted.append, random.Random(3), ui.read_message
        )
        work.stop_event.set()
        work.send("Hello?")
    assert engine.requests == []
    assert isinstance(posted[-1], AnswersEnded)


@both_sizes
def test_picture_of_a_vote(pair: None, size: tuple[int, int], snap_compare: SnapCompare) -> None:
    """Look at: both answers with the names hidden, nothing about who or how fast, the keys."""
    app, shown, _ = arena("Grey", " is", " what", " hot", " ash", " looks", " like.")

    async def steps(pilot: Pilot[None]) -> None:
        await ask(pilot, shown, "Name a colour, and say what has it.")

    assert snap_compare(app, terminal_size=size, run_before=still(steps))


@both_sizes
def test_picture_of_who_it_was(
    pair: None, size: tuple[int, int], snap_compare: SnapCompare
) -> None:
    """Look at: the winner's green frame, both names, set-ups, rating changes and times."""
    app, shown, _ = arena("Grey", " is", " what", " ash", " looks", " like.")

    async def steps(pilot: Pilot[None]) -> None:
        await ask(pilot, shown, "Name a colour, and say what has it.")
        await pilot.press("r")
        await ready(pilot, shown, ArenaState.REVEALED)

    assert snap_compare(app, terminal_size=size, run_before=still(steps))


@both_sizes
def test_picture_of_the_ratings(
    pair: None, size: tuple[int, int], snap_compare: SnapCompare
) -> None:
    """Look at: the table in one line a contestant, intervals where there is room, sentences."""
    with store_module.open_arena_store() as store:
        hot, cold = store.contestants()
        for number in range(40):
            played(store, hot, cold, Verdict.LEFT if number % 3 else Verdict.RIGHT)
    board = LeaderboardScreen()

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "hot" in plain(board.query_one("#ratings", Static)))

    assert snap_compare(CardApp(board), terminal_size=size, run_before=still(steps))


async def test_a_message_with_an_image(pair: None, tmp_path: Path) -> None:
    (tmp_path / "circle.png").write_bytes(image_files.png())
    seeing = ScriptedEngine("Red.", "Blue.", images=True)
    shown = ArenaScreen(RememberingUi("arena", engine=seeing), random.Random(3))
    async with CardApp(shown).run_test() as pilot:
        await ask(pilot, shown, f"Which colour? @{tmp_path}/circle.png")
        for name in SIDE_NAMES:
            assert "[circle.png, 40×20 pixels]\nWhich colour? circle.png" in side(shown, name)
        image = seeing.requests[0].messages[-1].parts[0]
        assert isinstance(image, Image)
        assert image.name == "circle.png"


async def test_a_message_with_an_image_that_nobody_reads_comes_back(
    pair: None, tmp_path: Path
) -> None:
    (tmp_path / "circle.png").write_bytes(image_files.png())
    card, shown, _ = arena("one ", "two")
    text = f"Which colour? @{tmp_path}/circle.png"
    async with card.run_test() as pilot:
        await ask(pilot, shown, text, ArenaState.FIRST_MESSAGE)
        await until(pilot, lambda: "cannot read images" in notice(shown))
        assert shown.query_one(Input).value == text
