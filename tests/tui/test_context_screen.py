"""The context screen shows which turns the model reads, and changes that."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from chatlm.errors import EngineError, StoreError
from chatlm.tui.screens.context import ContextBreakdown, ContextScreen, turn_rows
from chatlm.tui.widgets.context_gauge import ContextFill
from chatlm.types.conversations import ContextPolicy, Turn
from chatlm.types.messages import Message
from tests.costs import step_seconds
from tests.tui.cards import CardApp, SnapCompare, both_sizes, hint, still
from tests.tui.support import hostile_texts, plain, until


class Chat:
    """Turns whose policy can be changed, measured by their words."""

    def __init__(self, *texts: str, limit: int = 8192) -> None:
        self.turns = [
            Turn(100 + position, position, Message("user", text))
            for position, text in enumerate(texts)
        ]
        self.limit = limit
        self.pieces: tuple[str, ...] = ("They spoke ", "of Paris.")
        self.go = threading.Event()
        self.go.set()
        self.broken: StoreError | None = None

    def read(self) -> ContextBreakdown:
        costs = {turn.id: self.cost(turn) for turn in self.turns}
        room, outside = self.limit - 50 - 20, set()
        for turn in reversed(self.turns):
            room -= costs[turn.id]
            if room < 0 and turn.context_policy is not ContextPolicy.PINNED:
                outside.add(turn.id)
        read = sum(cost for its, cost in costs.items() if its not in outside)
        filled = ContextFill(20, read, 50, self.limit, len(outside))
        return ContextBreakdown("Be brief.", tuple(self.turns), costs, frozenset(outside), filled)

    def cost(self, turn: Turn) -> int:
        return sum(10 * len(message.text.split()) for message in turn.messages())

    def set_policy(self, turn_id: int, policy: ContextPolicy) -> None:
        if self.broken is not None:
            raise self.broken
        self.change(turn_id, context_policy=policy)

    def summarise(self, turn_id: int) -> Generator[str, None, None]:
        for piece in self.pieces:
            yield piece
            while not self.go.wait(0.02):
                yield ""
        summary = "".join(self.pieces)
        if not summary:
            raise EngineError("The model wrote no summary.", hint="Try again.")
        self.change(turn_id, context_policy=ContextPolicy.SUMMARISED, summary=summary)

    def change(self, turn_id: int, **values: object) -> None:
        at = turn_id - 100
        self.turns[at] = dataclasses.replace(self.turns[at], **values)  # type: ignore[arg-type]

    def screen(self) -> ContextScreen:
        return ContextScreen(self.read, self.set_policy, self.summarise)


def trip() -> Chat:
    """Four turns, of which the first does not fit."""
    return Chat(
        "Tell me about the history of Paris " * 3,
        "How many people live there?",
        "What should I see in one day with two children who like trains and planes?",
        "Thanks!",
        limit=350,
    )


def lines(pilot: Pilot[None]) -> list[str]:
    return plain(pilot.app.screen.query_one(OptionList)).splitlines()


async def ready(pilot: Pilot[None]) -> None:
    await until(pilot, lambda: "read" in plain(pilot.app.screen.query_one(OptionList)))


async def test_every_turn_has_its_number_cost_and_state() -> None:
    async with CardApp(trip().screen()).run_test(size=(100, 30)) as pilot:
        await ready(pilot)
        system, first, second, third, fourth = lines(pilot)
        assert system.startswith("System prompt: Be brief.") and "20  always read" in system
        assert first.startswith("1  Tell me about") and first.endswith("210  does not fit")
        assert second.startswith("2  How many people live there?") and second.endswith("50  read")
        assert third.endswith("150  read") and fourth.endswith("10  read")
        whole = plain(pilot.app.screen)
        for part in ("system prompt 20", "turns 210", "free 70", "reserved for the reply 50"):
            assert part in whole
        assert "of 350 tokens, 1 turn out" in whole


async def test_pin_and_unpin() -> None:
    chat = trip()
    async with CardApp(chat.screen()).run_test(size=(100, 30)) as pilot:
        await ready(pilot)
        await pilot.press("home", "down", "p")
        await until(pilot, lambda: lines(pilot)[1].endswith("pinned"))
        assert [turn.context_policy for turn in chat.turns[:2]] == [
            ContextPolicy.PINNED,
            ContextPolicy.AUTO,
        ]
        await pilot.press("p")
        await until(pilot, lambda: lines(pilot)[1].endswith("does not fit"))
        assert [turn.context_policy for turn in chat.turns[:2]] == [
            ContextPolicy.AUTO,
            ContextPolicy.AUTO,
        ]


async def test_drop_and_take_back_keep_the_place() -> None:
    chat = trip()
    async with CardApp(chat.screen()).run_test(size=(100, 30)) as pilot:
        await ready(pilot)
        await pilot.press("up", "d")
        await until(pilot, lambda: lines(pilot)[3].endswith("0  left out"))
        assert lines(pilot)[1].endswith("read")  # now there is room for the first
        assert pilot.app.screen.query_one(OptionList).highlighted == 3
        await pilot.press("d")
        await until(pilot, lambda: lines(pilot)[3].endswith("150  read"))


async def test_system_prompt_cannot_be_changed() -> None:
    async with CardApp(trip().screen()).run_test(size=(100, 30)) as pilot:
        await ready(pilot)
        assert "p pin" in hint(pilot)
        await pilot.press("home")
        await until(pilot, lambda: "p pin" not in hint(pilot))
        before = lines(pilot)
        await pilot.press("p", "d", "s")
        await pilot.pause()
        assert lines(pilot) == before


async def test_summary_is_shown_while_it_is_written_and_then_stands() -> None:
    chat = trip()
    chat.go.clear()
    async with CardApp(chat.screen()).run_test(size=(100, 30)) as pilot:
        await ready(pilot)
        await pilot.press("up", "s")
        note = "Summarising turn 3: They spoke"
        await until(pilot, lambda: note in plain(pilot.app.screen))
        assert "esc stop the summary" in hint(pilot) and "p pin" not in hint(pilot)
        chat.go.set()
        await until(pilot, lambda: lines(pilot)[3].endswith("summarised"))
        assert chat.turns[2].summary == "They spoke of Paris."
        assert "Summarising" not in plain(pilot.app.screen)


async def test_a_stored_summary_is_taken_and_left_without_the_model() -> None:
    chat = trip()
    chat.change(102, summary="They spoke of Paris.")
    chat.pieces = ()
    async with CardApp(chat.screen()).run_test(size=(100, 30)) as pilot:
        await ready(pilot)
        await pilot.press("up", "s")
        await until(pilot, lambda: lines(pilot)[3].endswith("summarised"))
        await pilot.press("s")
        await until(pilot, lambda: lines(pilot)[3].endswith("150  read"))


async def test_escape_stops_the_summary_and_stays() -> None:
    chat = trip()
    chat.go.clear()
    app = CardApp(chat.screen())
    async with app.run_test(size=(100, 30)) as pilot:
        await ready(pilot)
        await pilot.press("s")
        await until(pilot, lambda: "Summarising turn 4" in plain(app.screen))
        await pilot.press("escape")
        await until(pilot, lambda: "Summarising" not in plain(app.screen))
        assert chat.turns[3].context_policy is ContextPolicy.AUTO
        assert app.given == []
        await pilot.press("escape")
        await until(pilot, lambda: app.given == [None])


@pytest.mark.parametrize("key", ["p", "s"])
async def test_what_fails_is_reported_and_nothing_changes(key: str) -> None:
    chat = trip()
    chat.pieces = ()
    chat.broken = StoreError("The disk is full.", hint="Free some space.")
    async with CardApp(chat.screen()).run_test(size=(100, 30)) as pilot:
        await ready(pilot)
        before = lines(pilot)
        await pilot.press(key)
        wanted = "Free some space." if key == "p" else "The model wrote no summary."
        await until(pilot, lambda: wanted in plain(pilot.app.screen))
        assert lines(pilot) == before


@pytest.mark.parametrize("way", ["enter", "click"])
async def test_enter_or_click_goes_to_the_turn(way: str) -> None:
    app = CardApp(trip().screen())
    async with app.run_test(size=(100, 30)) as pilot:
        await ready(pilot)
        if way == "enter":
            await pilot.press("up", "enter")
        else:
            await pilot.click(OptionList, offset=(10, 3))
        await until(pilot, lambda: app.given == [102])


async def test_empty_chat_says_so() -> None:
    async with CardApp(Chat().screen()).run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "No turns yet" in plain(pilot.app.screen))
        assert "all turns fit" in plain(pilot.app.screen)


async def test_no_model_says_why() -> None:
    chat = trip()

    def read() -> ContextBreakdown:
        raise EngineError("No model is loaded.", hint="Start chatlm again.")

    app = CardApp(ContextScreen(read, chat.set_policy, chat.summarise))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Start chatlm again." in plain(app.screen))
        await pilot.press("p", "escape")
        await until(pilot, lambda: app.given == [None])


async def test_five_hundred_turns_open_at_once() -> None:
    """In as much work of this thread as 30 million steps of a loop, about half a second."""
    chat = Chat(*(f"What is the capital of country {n}?" for n in range(500)), limit=9000)
    async with CardApp(chat.screen()).run_test(size=(160, 48)) as pilot:
        started = time.thread_time()
        await until(pilot, lambda: "500  What is the capital" in "\n".join(lines(pilot)))
        used = time.thread_time() - started
        assert used < 30_000_000 * step_seconds()
        await pilot.press("home")
        await until(pilot, lambda: lines(pilot)[1].endswith("does not fit"))


def test_hostile_messages_take_one_line_each(shared_data: Path) -> None:
    texts = hostile_texts(shared_data)
    ledger = Chat(*texts).read()
    for option in turn_rows(ledger, 78):
        line = str(option.prompt)
        assert "\n" not in line and not any(ord(c) < 32 or c in "\u202e\x9b" for c in line)


def crowd() -> Chat:
    """Every state there is."""
    chat = Chat(*(f"What is the capital of country {n}, and who lives there?" for n in range(30)))
    chat.limit = 2700
    for at, policy in (
        (1, ContextPolicy.PINNED),
        (25, ContextPolicy.PINNED),
        (26, ContextPolicy.DROPPED),
    ):
        chat.change(100 + at, context_policy=policy)
    chat.change(127, context_policy=ContextPolicy.SUMMARISED, summary="Facts about country 27.")
    return chat


@both_sizes
@pytest.mark.parametrize("theme", ["textual-dark", "textual-light"])
def test_picture(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    """Costs as bars, states in words, totals at the foot."""
    app = CardApp(crowd().screen(), theme)
    assert snap_compare(app, terminal_size=size, run_before=still(ready))


@both_sizes
def test_picture_of_a_summary(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    """The growing summary is above the totals."""
    chat = crowd()
    chat.go.clear()

    async def steps(pilot: Pilot[None]) -> None:
        await ready(pilot)
        await pilot.press("s")
        await until(pilot, lambda: "They spoke" in plain(pilot.app.screen))

    assert snap_compare(CardApp(chat.screen()), terminal_size=size, run_before=still(steps))


@pytest.mark.parametrize(
    "tokens, note", [(21, "the default of the model's template"), (0, "No system prompt")]
)
def test_no_system_prompt_of_the_users_own(tokens: int, note: str) -> None:
    ledger = ContextBreakdown("", (), {}, frozenset(), ContextFill(tokens, 0, 50, 8192))
    first = str(turn_rows(ledger, 120)[0].prompt)
    assert note in first and f"{tokens}  always read" in first


@both_sizes
def test_picture_of_an_empty_chat(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    """It says what will be listed there."""

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "No turns yet" in plain(pilot.app.screen))

    assert snap_compare(CardApp(Chat().screen()), terminal_size=size, run_before=still(steps))
