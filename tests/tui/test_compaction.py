"""Old turns that the model summarises while the user reads."""

from __future__ import annotations

import pytest
from textual.pilot import Pilot

from chatlm.engines.scripted import ScriptedEngine
from chatlm.tui.chat.turn_view import TurnView
from chatlm.types.conversations import ContextPolicy
from tests.tui.support import app_of, chat_of, idle, make_app, plain, say, until

LONG = "word " * 52
"""A reply; its turn takes a quarter of the context."""


def first_view(pilot: Pilot[None]) -> TurnView:
    return next(iter(app_of(pilot).chat_screen.query(TurnView)))


@pytest.mark.parametrize("on", [True, False])
async def test_old_turns_are_summarised_if_the_user_wants_it(on: bool) -> None:
    engine = ScriptedEngine(*[LONG] * 4, "It was about gardens.", context=256)
    app = make_app(engine, auto_compact=on)
    async with app.run_test(size=(100, 60)) as pilot:
        for number in range(4):
            await say(pilot, f"Question {number}")
            await idle(pilot)
        chat = chat_of(pilot)
        if not on:
            await until(pilot, lambda: len(engine.read_ahead_requests) == 4)
            assert {turn.context_policy for turn in chat.conversation.turns} == {ContextPolicy.AUTO}
            return
        await until(pilot, lambda: chat.conversation.turns[0].summary)
        await until(pilot, lambda: "replaced by its summary" in plain(first_view(pilot)))
        assert "It was about gardens." in plain(first_view(pilot))
        first = chat.conversation.turns[0]
        assert (first.context_policy, first.summary) == (
            ContextPolicy.SUMMARISED,
            "It was about gardens.",
        )
        first_view(pilot).focus()
        await pilot.press("s")
        await until(pilot, lambda: chat.conversation.turns[0].context_policy is ContextPolicy.AUTO)
