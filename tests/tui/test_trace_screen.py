"""The card that shows what plugins did for a turn."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from textual.pilot import Pilot

from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.hookspecs import hookimpl
from chatlm.tui.screens.trace import NO_CALLS, TraceScreen
from chatlm.types.conversations import Turn
from chatlm.types.messages import Annotation, Message
from chatlm.types.provenance import Call, Change, Trace
from chatlm.types.replies import Reply
from tests.tui.cards import CardApp, SnapCompare, Steps, both_sizes, still
from tests.tui.support import idle, make_app, plain, say

ASKED = "What is the capital of France?"
TURN = Turn(
    1, 0, Message("user", ASKED), (Reply(1, 1, "Paris."), Reply(2, 2, "Lyon?")), active_reply_id=2
)
TRACES = [
    Trace(
        (
            Call(
                "templates",
                "write_message",
                0.0004,
                "a message of 63 characters",
                (Change("message", ASKED, f"Answer in one word, and only one: {ASKED}"),),
            ),
            Call("emotion", "annotate_message", 1.31, "mood curious (0.93)"),
            Call("rag", "retrieve_passages", 0.0312, "2 passages: notes/france.md, notes/lyon.md"),
        )
    ),
    Trace((Call("only", "build_messages", 0.1, "an older version"),), 1),
    Trace(
        (
            Call(
                "broken", "adjust_request", 0.00001, "", (), "TypeError: returned int, not Request"
            ),
            Call(
                "bias",
                "adjust_request",
                0.0002,
                "",
                (Change("temperature", "0.7", "0.2"), Change("logits processors", "", "no_lyon")),
            ),
            Call("emotion", "annotate_message", 0.9),
            Call("bias", "a logits processor", 0.0125, "no_lyon, 12 tokens"),
        ),
        2,
    ),
    Trace((Call("emotion", "turn_finished", 0.00002),), 2),
]


def card(*traces: Trace) -> CardApp:
    return CardApp(TraceScreen(TURN, traces))


async def test_it_shows_the_message_and_the_reply_that_stands() -> None:
    app = card(*TRACES)
    async with app.run_test(size=(100, 60)) as pilot:
        await pilot.pause()
        shown = plain(app.card)
        for text in (
            "5 plugins · 8 calls · 2.3 s · 1 failed",
            "The message",
            "The reply, version 2 of 2\n",
            "The reply, version 2 of 2, continued",
            "✗ failed",
            "TypeError: returned int, not Request",
            "{+Answer in one word, and only one:+} What is the capital",
            "temperature  [-0.7-]{+0.2+}",
            "1.3 s",
            "<0.1 ms",
            "2 passages: notes/france.md, notes/lyon.md",
            "nothing",
        ):
            assert text in shown, text
        assert "an older version" not in shown
        await pilot.press("c")
        copied = json.loads(app.clipboard)
        assert [trace["reply"] for trace in copied] == [None, 2, 2]
        assert copied[0]["calls"][1]["seconds"] == 1.31
        await pilot.press("t")
        assert app.screen is not app.card


async def test_where_no_plugin_took_part_it_says_so_and_nothing_is_copied() -> None:
    app = card()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert NO_CALLS.split(",")[0] in plain(app.card)
        assert "copy" not in plain(app.card)
        await pilot.press("c")
        assert app.clipboard == ""


async def test_hostile_words_are_only_text() -> None:
    bad = "[red]\x1b[31m\u202e\ud800\n[/]"
    call = Call(bad, bad, 0.1, bad, (Change(bad, bad, f"{bad}{bad}"),), bad)
    app = card(Trace((call, Call(bad * 9, bad * 9, 0.1, bad * 9))))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        shown = plain(app.card)
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "[red]␛[31m" in shown
        await pilot.press("c", "escape")
        assert json.loads(app.clipboard)[0]["calls"][0]["error"].startswith("[red]\x1b[31m")


class Labels:
    @hookimpl
    def annotate_message(self) -> list[Annotation]:
        return [Annotation("labels", "mood", "calm")]


async def test_the_command_opens_it_for_the_selected_turn() -> None:
    app = make_app(ScriptedEngine("Yes."))
    app.services.plugins.register("labels", Labels())
    async with app.run_test() as pilot:
        await say(pilot, "Is it?")
        await idle(pilot)
        await say(pilot, "/trace")
        assert isinstance(app.screen, TraceScreen)
        assert "mood calm" in plain(app.screen)
        await pilot.press("escape")
        assert not isinstance(app.screen, TraceScreen)


async def test_without_a_message_there_is_nothing_to_open() -> None:
    app = make_app()
    async with app.run_test() as pilot:
        await say(pilot, "/trace")
        assert not isinstance(app.screen, TraceScreen)


@pytest.fixture
def compare(snap_compare: SnapCompare, size: tuple[int, int]) -> Callable[[CardApp, Steps], bool]:
    return lambda app, steps: snap_compare(app, terminal_size=size, run_before=still(steps))


async def nothing(pilot: Pilot[None]) -> None:
    await pilot.pause()


@both_sizes
def test_calls(compare: Callable[[CardApp, Steps], bool]) -> None:
    """Times, plugins and hooks in columns; changes in colours, failures in red."""
    assert compare(card(*TRACES), nothing)


@both_sizes
def test_no_calls(compare: Callable[[CardApp, Steps], bool]) -> None:
    """One sentence."""
    assert compare(card(), nothing)
