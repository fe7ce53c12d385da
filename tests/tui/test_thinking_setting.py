"""How much the model thinks is set per chat, by a key or a command, and shown in the status bar."""

from __future__ import annotations

from functools import partial

import pytest
from textual.pilot import Pilot

from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from chatlm.tui.app import ChatApp
from chatlm.tui.chat.status import Status, StatusBar, state_parts
from chatlm.tui.engine_loader import Loading, Ready
from chatlm.types.sampling import Sampling, Thinking
from tests.tui.support import (
    app_of,
    chat_of,
    idle,
    make_app,
    opens,
    plain,
    run,
    say,
    toasts,
    until,
)

SWITCH: tuple[Thinking, ...] = ("off", "low", "medium", "high")


def thinker(*replies: str, levels: tuple[Thinking, ...] = SWITCH) -> ScriptedEngine:
    return ScriptedEngine(*replies, thinks=True, thinking_levels=levels)


async def ready(pilot: Pilot[None]) -> None:
    await until(pilot, lambda: isinstance(app_of(pilot).engine_state, Ready))


def level_is(pilot: Pilot[None], level: str) -> bool:
    return chat_of(pilot).thinking == level


def bar(pilot: Pilot[None]) -> str:
    return plain(app_of(pilot).chat_screen.query_one(StatusBar))


async def test_the_key_takes_the_next_level_and_the_chat_keeps_it() -> None:
    engine, store = thinker("One.", "Two.", "Three."), Store(None)

    def asked() -> str | None:
        return engine.requests[-1].sampling.thinking

    async with make_app(engine, store).run_test() as pilot:
        await ready(pilot)
        assert "thinking" not in bar(pilot)
        for level in ("off", "low", "medium", "high", "auto", "off"):
            await pilot.press("f2")
            await until(pilot, partial(level_is, pilot, level))
        await until(pilot, lambda: "thinking off" in bar(pilot))
        assert toasts(pilot)[-1] == "Thinking: off"
        await say(pilot, "Hi")
        await idle(pilot)
        assert asked() == "off"
        await chat_of(pilot).switch.new_chat()
        await until(pilot, lambda: "thinking" not in bar(pilot))
        await say(pilot, "Hi")
        await idle(pilot)
        assert asked() == "auto"
        await chat_of(pilot).switch.open_chat(1)
        await until(pilot, lambda: "thinking off" in bar(pilot))
    assert store.conversation(1).sampling.thinking == "off"


async def test_the_command_sets_a_level() -> None:
    async with make_app(thinker()).run_test() as pilot:
        await ready(pilot)
        await say(pilot, "/thinking High")
        await until(pilot, lambda: "thinking high" in bar(pilot))
        await run(pilot, "thinking", "much")
        assert "Thinking cannot be much\nChoose auto, off, low, medium, high." in toasts(pilot)[-1]
        assert chat_of(pilot).thinking == "high"


async def test_a_level_of_the_chat_goes_before_the_default() -> None:
    config = Config(sampling=Sampling(thinking="low"))
    app = ChatApp(Store(None), opens(thinker("One.")), config=config, clock=lambda: 0.0)
    async with app.run_test() as pilot:
        await ready(pilot)
        await until(pilot, lambda: "thinking low" in bar(pilot))
        await run(pilot, "thinking", "auto")
        await until(pilot, lambda: "thinking" not in bar(pilot))


async def test_the_key_leaves_out_what_the_model_does_not_follow() -> None:
    async with make_app(thinker(levels=("low", "high"))).run_test() as pilot:
        await ready(pilot)
        seen = []
        for _ in range(4):
            await run(pilot, "thinking")
            seen.append(chat_of(pilot).thinking)
        assert seen == ["low", "high", "auto", "low"]
        await run(pilot, "thinking", "off")
        assert "scripted does not support thinking = off" in toasts(pilot)[-1]
        assert chat_of(pilot).thinking == "low"


@pytest.mark.parametrize(
    ("thinks", "said"),
    [(False, "does not think before it answers"), (True, "cannot change how much it thinks")],
)
async def test_a_model_without_a_switch_says_so(thinks: bool, said: str) -> None:
    async with make_app(ScriptedEngine(thinks=thinks)).run_test() as pilot:
        await ready(pilot)
        await pilot.press("f2")
        await until(pilot, lambda: any(said in toast for toast in toasts(pilot)))
        assert level_is(pilot, "auto")
        assert "thinking" not in bar(pilot)


async def test_on_a_server_every_level_may_be_followed() -> None:
    async with make_app(ScriptedEngine()).run_test() as pilot:
        await ready(pilot)
        await pilot.press("f2")
        await until(pilot, lambda: "thinking off" in bar(pilot))


async def test_a_turn_says_once_that_the_setting_has_no_effect() -> None:
    """Such as after a switch to another model."""
    engine, store = ScriptedEngine("One.", "Two.", thinks=False), Store(None)
    chat = store.create_conversation(sampling=Sampling(thinking="high"))
    store.add_turn(chat.id, "Hi")
    async with make_app(engine, store, conversation_id=chat.id).run_test() as pilot:
        await until(pilot, lambda: chat_of(pilot).conversation_id == chat.id)
        for text in ("And", "so"):
            await say(pilot, text)
            await idle(pilot)
        assert sum("thinking = high has no effect" in toast for toast in toasts(pilot)) == 1
        assert "thinking" not in bar(pilot)


def test_the_footer_shows_it_only_where_it_means_something() -> None:
    thinking, plain_model = thinker().info, ScriptedEngine(thinks=False).info
    for state, level, expected in (
        (Ready(thinking), "low", True),
        (Ready(thinking), "auto", False),
        (Ready(plain_model), "low", False),
        (Loading("scripted"), "low", True),
    ):
        parts = [text for _, text in state_parts(state, Status(), (), level)]
        assert ("thinking low" in parts) == expected
