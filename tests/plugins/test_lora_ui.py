"""Adapters on the screen: chosen, switched by one key, stored with the chat and each reply."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

import chatlm_lora.plugin
from chatlm.chat.session import ChatSession
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.tui.app import ChatApp
from chatlm.tui.chat.status import StatusBar
from chatlm.types.replies import StopReason
from chatlm_lora import card
from chatlm_lora.card import AdapterCard, SampleAnswer
from chatlm_lora.library import ADAPTERS
from chatlm_lora.screens.picker import AdapterPicker
from tests.plugins.lora import adapter, config, matrices, tiny_base
from tests.plugins.ui import RememberingUi
from tests.tui.cards import CardApp, SnapCompare, both_sizes, everything_visible, still
from tests.tui.support import (
    StillEngine,
    app_of,
    chat_of,
    hostile_texts,
    idle,
    opens,
    plain,
    say,
    toasts,
    until,
)

CARD = AdapterCard(
    "pirate",
    "trained",
    "smollm2-135m-instruct",
    created_at="2026-01-02T03:04:05+00:00",
    description="Talks like a pirate",
    licence="Apache-2.0",
    source={"data": "pirate.jsonl", "train": 118, "held_out": 13},
    scores={"held_out_loss_before": 3.0, "held_out_loss_after": 1.5, "fall": 0.5},
    cost={"seconds": 61.0, "tokens": 5000},
    answers=(
        SampleAnswer(
            "What is the capital of Peru?", "Arr, Lima!", "Lima.", "Arr, that be Lima, matey!"
        ),
        SampleAnswer("Who are you?", "Yer first mate!", "I am a chatbot.", "Arr, yer first mate!"),
    ),
)


@pytest.fixture(autouse=True)
def shelf(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with two adapters, and none that come with chatlm."""
    monkeypatch.setitem(vars(ADAPTERS), "shipped_root", home / "none")
    card.write_card(CARD, adapter(home / "adapters" / "pirate"))
    adapter(home / "adapters" / "terse")
    return home / "adapters"


def app_with(engine: StillEngine, store: Store) -> ChatApp:
    host = PluginHost([("lora", chatlm_lora.plugin)])
    return ChatApp(store, opens(engine), plugins=host, config=Config(), clock=lambda: 0.0)


def bar(pilot: Pilot[None]) -> str:
    return plain(app_of(pilot).chat_screen.query_one(StatusBar))


def is_told(pilot: Pilot[None], text: str) -> bool:
    return text in "".join(toasts(pilot))


def adapters_asked(engine: StillEngine) -> list[str | None]:
    return [request.adapter for request in engine.requests]


async def test_one_key_switches_between_adapter_and_base() -> None:
    engine = StillEngine("one")
    with Store(None) as store:
        async with app_with(engine, store).run_test(size=(110, 30)) as pilot:
            await say(pilot, "Hello")
            await idle(pilot)
            await say(pilot, "/lora pirate")
            await until(pilot, lambda: "adapter pirate" in bar(pilot))
            assert "This chat uses pirate from the next reply on." in toasts(pilot)[-1]
            await say(pilot, "And now?")
            await idle(pilot)
            await pilot.press("f5")
            await until(pilot, lambda: "adapter" not in bar(pilot))
            await say(pilot, "And now?")
            await idle(pilot)
            await pilot.press("f5")
            await until(pilot, lambda: "adapter pirate" in bar(pilot))
            await say(pilot, "And now?")
            await idle(pilot)
            await say(pilot, "/lora off")
            await until(pilot, lambda: "adapter" not in bar(pilot))
            assert adapters_asked(engine) == [None, "pirate", None, "pirate"]
            turns = chat_of(pilot).conversation.turns
            assert [turn.reply.adapter for turn in turns if turn.reply] == adapters_asked(engine)


async def test_each_chat_has_its_own_and_it_is_there_again_when_it_is_opened() -> None:
    engine = StillEngine("one")
    with Store(None) as store:
        async with app_with(engine, store).run_test(size=(110, 30)) as pilot:
            await say(pilot, "/lora terse")
            await until(pilot, lambda: "adapter terse" in bar(pilot))
            await say(pilot, "Hello")
            await idle(pilot)
            await pilot.press("ctrl+n")
            await until(pilot, lambda: "adapter" not in bar(pilot))
            await say(pilot, "Hello")
            await idle(pilot)
            await chat_of(pilot).switch.open_chat(1)
            await until(pilot, lambda: "adapter terse" in bar(pilot))
            await say(pilot, "Again")
            await idle(pilot)
            assert adapters_asked(engine) == ["terse", None, "terse"]


async def test_a_new_chat_has_the_one_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATLM_LORA_ADAPTER", "terse")
    engine = StillEngine("one")
    with Store(None) as store:
        async with app_with(engine, store).run_test(size=(110, 30)) as pilot:
            await until(pilot, lambda: "adapter terse" in bar(pilot))
            await say(pilot, "Hello")
            await idle(pilot)
            await pilot.press("f5")
            await until(pilot, lambda: "adapter" not in bar(pilot))
            await say(pilot, "Hello")
            await idle(pilot)
            assert adapters_asked(engine) == ["terse", None]


async def test_an_unusable_adapter_is_reported_and_changes_nothing(shelf: Path) -> None:
    (shelf / "broken").mkdir()
    (shelf / "broken" / "adapter_model.bin").write_bytes(b"pickle")
    with Store(None) as store:
        async with app_with(StillEngine("one"), store).run_test(size=(110, 30)) as pilot:
            for words, message in (
                ("pirat", "There is no adapter 'pirat'"),
                ("broken", "its weights are a pickle file"),
                ("off", "This chat uses no adapter"),
            ):
                await say(pilot, f"/lora {words}")
                await until(pilot, partial(is_told, pilot, message))
            assert "adapter" not in bar(pilot)
            assert chat_of(pilot).conversation.plugin_data == {}


async def test_the_key_without_any_adapter_yet_opens_the_list() -> None:
    with Store(None) as store:
        async with app_with(StillEngine("one"), store).run_test(size=(110, 30)) as pilot:
            await pilot.press("f5")
            await until(pilot, lambda: isinstance(pilot.app.screen, AdapterPicker))
            await pilot.press("down", "enter")
            await until(pilot, lambda: not isinstance(pilot.app.screen, AdapterPicker))
            await until(pilot, lambda: "adapter pirate" in bar(pilot))
            await say(pilot, "/lora")
            await until(pilot, lambda: isinstance(pilot.app.screen, AdapterPicker))
            await until(pilot, lambda: "in use · Talks like a pirate" in everything_visible(pilot))
            await pilot.press("up", "enter")
            await until(pilot, lambda: "adapter" not in bar(pilot))


async def test_a_name_that_somebody_put_into_a_chat_is_only_drawn(shared_data: Path) -> None:
    with Store(None) as store:
        async with app_with(StillEngine("one"), store).run_test(size=(110, 30)) as pilot:
            for text in hostile_texts(shared_data)[::25]:
                chat_of(pilot).edits.set_plugin_data("lora", {"adapter": text})
                await pilot.press("ctrl+n")
                drawn = everything_visible(pilot)
                assert all(sign.isprintable() or sign == "\n" for sign in drawn)
                assert len(bar(pilot).splitlines()) == 1


# --- without a screen ----------------------------------------------------------------------------


def session_with(store: Store, engine: ScriptedEngine, adapter: str | None = None) -> ChatSession:
    host = PluginHost([("lora", chatlm_lora.plugin)])
    kept = {"lora": {"adapter": "pirate"}}
    return ChatSession(store, lambda: engine, plugins=host, plugin_data=kept, adapter=adapter)


@pytest.mark.parametrize(("asked", "used"), [(None, "pirate"), ("terse", "terse"), ("", None)])
def test_an_explicit_adapter_overrides_the_chats_own(asked: str | None, used: str | None) -> None:
    engine = ScriptedEngine("one", "two")
    with Store(None) as store:
        session = session_with(store, engine, asked)
        list(session.send("Hello"))
        assert [request.adapter for request in engine.requests] == [used]
        assert session.preview("More").request.adapter == used
        list(session.read_ahead())
        assert engine.read_ahead_requests[-1].adapter == used, (
            "the next reply most likely has the same"
        )


def test_a_reply_is_continued_by_the_adapter_that_began_it() -> None:
    engine = ScriptedEngine("one two three", " four", "five")
    with Store(None) as store:
        session = session_with(store, engine)
        events = session.send("Hello")
        for event in events:
            if getattr(event, "text", ""):
                break
        events.close()
        assert session.conversation_id is not None
        store.set_plugin_data(session.conversation_id, "lora", {"adapter": "terse"})
        list(session.continue_reply())
        list(session.regenerate())
        assert [request.adapter for request in engine.requests] == ["pirate", "pirate", "terse"]
        replies = store.conversation(session.conversation_id).turns[0].replies
        assert [reply.adapter for reply in replies] == ["pirate", "terse"]
        assert replies[0].stop_reason is StopReason.END


# --- the list ------------------------------------------------------------------------------------


async def listed(pilot: Pilot[None]) -> None:
    """Wait until the list is there, with one of its rows marked."""
    await until(pilot, lambda: "no adapter" in everything_visible(pilot))


async def test_the_list_says_why_one_cannot_be_chosen(shelf: Path) -> None:
    adapter(
        shelf / "bad", {**matrices(), "base_model.model.x.lora_A.weight": matrices().popitem()[1]}
    )
    ui = RememberingUi("lora")
    async with CardApp(AdapterPicker(ui)).run_test(size=(100, 30)) as pilot:
        await listed(pilot)
        rows = pilot.app.screen.query_one(OptionList)
        assert [option.id for option in rows.options] == ["", "bad", "pirate", "terse"]
        await pilot.press("down", "enter")
        problem = pilot.app.screen.query_one("#problem", Static)
        await until(
            pilot, lambda: problem.display and "cannot be used" in " ".join(plain(problem).split())
        )
        assert ui.called("set_state") == []
        await pilot.press("down", "enter")
        await until(pilot, lambda: ui.called("set_state"))
        assert ui.called("set_state") == [{"adapter": "pirate", "last": "pirate"}]


async def test_the_list_verifies_what_is_marked(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base(tmp_path / "base")
    still_zero = {n: m * (0 if "lora_B" in n else 1) for n, m in matrices().items()}
    adapter(shelf / "zero", still_zero, config(base_model_name_or_path=base.name))
    engine = StillEngine()
    engine.info = replace(engine.info, model=str(base.folder))
    ui = RememberingUi("lora", engine=engine)
    async with CardApp(AdapterPicker(ui)).run_test(size=(110, 30)) as pilot:
        await listed(pilot)
        await pilot.press("down", "v")
        await until(pilot, lambda: "Verified: acts (mean KL" in everything_visible(pilot))
        await pilot.press("down", "down", "v")
        await until(pilot, lambda: "Verified: no effect" in everything_visible(pilot))
        await pilot.press("up", "up")
        assert "Verified: acts" in everything_visible(pilot), "it is remembered"


@both_sizes
@pytest.mark.parametrize("theme", ["textual-dark", "textual-light"])
def test_picture_of_the_adapters(
    snap_compare: SnapCompare, size: tuple[int, int], theme: str
) -> None:
    """The one in use is marked and named; below it replies with and without it."""
    ui = RememberingUi("lora")
    ui.set_state(adapter="pirate")

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "Lima, matey" in everything_visible(pilot))

    app = CardApp(AdapterPicker(ui), theme)
    assert snap_compare(app, terminal_size=size, run_before=still(steps))


@both_sizes
def test_picture_without_adapters(
    snap_compare: SnapCompare, size: tuple[int, int], shelf: Path
) -> None:
    """There is only the base, and how to get an adapter."""
    shutil.rmtree(shelf)

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "There are no adapters yet" in everything_visible(pilot))

    app = CardApp(AdapterPicker(RememberingUi("lora")))
    assert snap_compare(app, terminal_size=size, run_before=still(steps))
