"""A message from the composer to a stored, shown reply, and every way it may end."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import pytest

from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import EngineError, StoreError
from chatlm.store.store import Store
from chatlm.tui.chat.status import EngineBanner, StatusBar
from chatlm.tui.engine_loader import Failed
from chatlm.types.conversations import ContextPolicy, Turn
from chatlm.types.messages import Message
from chatlm.types.parts import Part
from chatlm.types.replies import StopReason
from tests.tui.support import (
    StillEngine,
    app_of,
    chat_of,
    idle,
    line,
    make_app,
    newest,
    notices,
    plain,
    say,
    toasts,
    until,
)
from tests.waiting import PATIENCE


async def test_a_typed_message_is_answered_and_stored() -> None:
    store = Store(None)
    app = make_app(ScriptedEngine("Paris, of course."), store)
    async with app.run_test() as pilot:
        await pilot.press(*"Where?", "enter")
        await idle(pilot)
        assert "Paris, of course." in plain(newest(pilot))
        assert line(pilot).startswith("3 tokens")
        assert chat_of(pilot).composer.text == ""
    (turn,) = store.conversation(1).turns
    assert turn.user.text == "Where?"
    assert turn.reply is not None
    assert (turn.reply.text, turn.reply.stop_reason) == ("Paris, of course.", StopReason.END)


async def test_the_reply_is_seen_while_it_grows() -> None:
    engine = StillEngine("One ", "two ", "three", stand_after=2)
    async with make_app(engine).run_test() as pilot:
        await say(pilot, "Count")
        await until(pilot, lambda: "One two" in plain(newest(pilot)))
        assert line(pilot) == "writing · 2 tokens · 20.0 tokens/s · esc stop"
        assert chat_of(pilot).view.status.used_tokens == 14
        engine.go.set()
        await idle(pilot)
        assert "One two three" in plain(newest(pilot))


async def test_escape_stops_keeps_the_text_and_it_can_go_on() -> None:
    store, engine = Store(None), StillEngine("Once ", "upon ", "a time", stand_after=1)
    async with make_app(engine, store).run_test() as pilot:
        await say(pilot, "A story")
        await until(pilot, lambda: "Once" in plain(newest(pilot)))
        await pilot.press("escape")
        await idle(pilot)
        assert line(pilot) == "stopped · ctrl+g continue · 1 token"
        kept = store.conversation(1).turns[0].reply
        assert kept is not None
        assert (kept.text, kept.stop_reason) == ("Once ", StopReason.CANCELLED)

        engine.go.set()
        await pilot.press("ctrl+g")
        await idle(pilot)
        assert engine.requests[1].messages[-1] == Message("assistant", "Once ")
        assert "Once Once upon a time" in plain(newest(pilot))
        assert "continue" not in line(pilot)
    whole = store.conversation(1).turns[0].reply
    assert whole is not None
    assert (whole.text, whole.version) == ("Once Once upon a time", 1)


async def test_continue_and_stop_work_with_the_mouse() -> None:
    engine = StillEngine("Half", reason=StopReason.LENGTH)
    async with make_app(engine).run_test() as pilot:
        await say(pilot, "A story")
        await idle(pilot)
        text = line(pilot)
        assert text.startswith("reached the length limit")
        at = text.index("continue") + newest(pilot).query_one(".line").styles.padding.left
        await pilot.click(newest(pilot).query_one(".line"), offset=(at + 2, 0))
        await until(pilot, lambda: len(engine.requests) == 2)
        await idle(pilot)


@pytest.mark.parametrize(
    "reason", [StopReason.REFUSAL, StopReason.CONTENT_FILTER, StopReason.EMPTY]
)
async def test_a_reply_without_an_answer_says_why_and_offers_no_continuation(
    reason: StopReason,
) -> None:
    engine = ScriptedEngine(StopReason.END if reason is StopReason.EMPTY else reason)
    async with make_app(engine).run_test() as pilot:
        await say(pilot, "Hi")
        await idle(pilot)
        assert line(pilot) == reason.label
        await pilot.press("ctrl+g")
        await idle(pilot)
        assert toasts(pilot)[0].startswith(f"The last reply cannot be continued: {reason.label}")
        assert len(engine.requests) == 1


async def test_regenerate_makes_another_version() -> None:
    store = Store(None)
    async with make_app(ScriptedEngine("First.", "Second."), store).run_test() as pilot:
        await say(pilot, "Pick")
        await idle(pilot)
        await pilot.press("ctrl+r")
        await idle(pilot)
        assert "Second." in plain(newest(pilot))
        assert "First." not in plain(newest(pilot))
        assert line(pilot).startswith("‹ 2/2 ›")
    assert [reply.text for reply in store.conversation(1).turns[0].replies] == ["First.", "Second."]


async def test_a_complete_reply_is_not_continued_and_an_empty_chat_not_answered() -> None:
    engine = ScriptedEngine("Done.")
    async with make_app(engine).run_test() as pilot:
        await pilot.press("ctrl+g")
        await idle(pilot)
        await say(pilot, "Hello")
        await idle(pilot)
        await pilot.press("ctrl+g")
        await idle(pilot)
        assert [text.splitlines()[0] for text in toasts(pilot)] == [
            "This chat has no message yet",
            "The last reply is complete",
        ]
        assert len(engine.requests) == 1
        assert line(pilot).startswith("1 token")


async def test_a_failed_generation_is_reported_and_leaves_the_chat_usable() -> None:
    broken = EngineError("The model broke.", hint="Try a smaller one.")
    async with make_app(ScriptedEngine(broken, "Better.")).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        assert toasts(pilot) == ["The model broke.\nTry a smaller one."]
        assert line(pilot).startswith("failed")
        assert "The model broke." in line(pilot)
        assert "ctrl+g continue" in line(pilot)
        await say(pilot, "Again")
        await idle(pilot)
        assert "Better." in plain(newest(pilot))


async def test_an_unexpected_error_is_reported_too() -> None:
    async with make_app(ScriptedEngine(ValueError("odd"))).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        assert "chatlm logs" in toasts(pilot)[0]
        assert "ValueError: odd" in toasts(pilot)[0]


class FullStore(Store):
    """A store whose disk is full."""

    def add_turn(
        self,
        conversation_id: int,
        content: str | Iterable[Part],
        raw_input: str = "",
        blobs: Iterable[bytes] = (),
    ) -> Turn:
        raise StoreError("The disk is full", hint="Free some space.")


async def test_a_message_that_cannot_be_stored_goes_back_to_the_composer() -> None:
    async with make_app(ScriptedEngine("Hi."), FullStore(None)).run_test() as pilot:
        await say(pilot, "Keep me")
        await idle(pilot)
        assert chat_of(pilot).composer.text == "Keep me"
        assert chat_of(pilot).view.newest_view is None
        assert notices(pilot) == ["The disk is full\nFree some space."]


async def test_notices_of_the_session_are_shown() -> None:
    engine = StillEngine("Hi.", left_out=(Message("user", "old"), Message("assistant", "older")))
    async with make_app(engine).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        assert len(notices(pilot)) == 1
        assert "the oldest turn of this chat did not fit" in notices(pilot)[0].replace("\n", " ")
        assert toasts(pilot)


async def test_a_second_message_waits_in_the_composer() -> None:
    engine = StillEngine("One ", "two", stand_after=1)
    async with make_app(engine).run_test() as pilot:
        await say(pilot, "First")
        await until(pilot, lambda: "One" in plain(newest(pilot)))
        await say(pilot, "Second")
        assert chat_of(pilot).composer.text == "Second"
        engine.go.set()
        await idle(pilot)
        assert chat_of(pilot).composer.text == "Second"
        assert len(engine.requests) == 1


async def test_the_app_is_usable_while_the_model_loads() -> None:
    store, ready = Store(None), threading.Event()
    other = store.create_conversation("Another chat")
    store.add_turn(other.id, "An old question")
    engine = ScriptedEngine("Here I am.")

    def slow(model: str, report: object) -> ScriptedEngine:
        assert ready.wait(PATIENCE)
        return engine

    app = make_app(store=store, open_engine=slow)
    async with app.run_test() as pilot:
        assert plain(pilot.app.screen.query_one(EngineBanner)).startswith("Loading smollm2")
        await pilot.press(*"Hello", "enter")
        await until(pilot, lambda: chat_of(pilot).view.newest_view)
        assert line(pilot) == "waiting for the model · esc stop"
        assert store.conversation(2).turns[0].user.text == "Hello"

        assert await chat_of(pilot).switch.open_chat(other.id)
        await until(pilot, lambda: "An old question" in plain(newest(pilot)))
        assert await chat_of(pilot).switch.open_chat(2)
        await until(pilot, lambda: line(pilot) == "waiting for the model · esc stop")

        ready.set()
        await idle(pilot)
        assert "Here I am." in plain(newest(pilot))


async def test_escape_ends_the_wait_for_the_model() -> None:
    ready, engine = threading.Event(), ScriptedEngine("Now.")

    def slow(model: str, report: object) -> ScriptedEngine:
        assert ready.wait(PATIENCE)
        return engine

    async with make_app(open_engine=slow).run_test() as pilot:
        await say(pilot, "Hello")
        await until(pilot, lambda: chat_of(pilot).view.newest_view)
        await pilot.press("escape")
        await idle(pilot)
        assert line(pilot) == "not answered · ctrl+r answer"
        assert notices(pilot) == []
        ready.set()
        await pilot.press("ctrl+r")
        await idle(pilot)
        assert "Now." in plain(newest(pilot))


async def test_a_missing_model_is_reported_and_can_be_tried_again() -> None:
    attempts: list[int] = []
    missing = EngineError("There is no model here.", hint="chatlm models pull smollm2")

    def twice(model: str, report: object) -> ScriptedEngine:
        attempts.append(1)
        if len(attempts) == 1:
            raise missing
        return ScriptedEngine("Found.")

    async with make_app(open_engine=twice).run_test() as pilot:
        await until(pilot, lambda: isinstance(app_of(pilot).engine_state, Failed))
        banner = plain(pilot.app.screen.query_one(EngineBanner))
        assert "There is no model here." in banner
        assert "chatlm models pull smollm2" in banner
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(attempts) == 2)
        await say(pilot, "Hello")
        await idle(pilot)
        assert "Found." in plain(newest(pilot))


async def test_notes_of_the_engine_are_shown() -> None:
    engine = StillEngine(notes=("This model has no chat template; ChatML is used.",))
    async with make_app(engine).run_test() as pilot:
        await until(pilot, lambda: notices(pilot))
        assert "ChatML is used." in notices(pilot)[0]


async def test_quitting_stores_the_partial_reply() -> None:
    store, engine = Store(None), StillEngine("Half ", "of it", stand_after=1)
    async with make_app(engine, store).run_test() as pilot:
        await say(pilot, "Hello")
        await until(pilot, lambda: "Half" in plain(newest(pilot)))
        await pilot.press("ctrl+q")
    reply = store.conversation(1).turns[0].reply
    assert reply is not None
    assert (reply.text, reply.stop_reason) == ("Half ", StopReason.CANCELLED)


async def test_the_model_reads_ahead_while_the_user_reads_the_reply() -> None:
    engine = ScriptedEngine("Hello.", "Again.")
    async with make_app(engine).run_test() as pilot:
        await say(pilot, "Hi")
        await idle(pilot)
        await until(pilot, lambda: len(engine.read_ahead_requests) == 1)
        assert engine.read_ahead_requests[0].messages == (
            Message("user", "Hi"),
            Message("assistant", "Hello."),
        )
        await say(pilot, "And?")
        await idle(pilot)
        assert "Again." in plain(newest(pilot))


async def test_switching_chats_at_any_moment_of_a_turn_harms_nothing() -> None:
    store = Store(None)
    app = make_app(ScriptedEngine(*["one two three four"] * 8, delay=0.01), store)
    async with app.run_test() as pilot:
        for pause in range(8):
            await pilot.press(*"Hi", "enter")
            for _ in range(pause):
                await pilot.pause(0.01)
            await pilot.press("ctrl+n")
            await until(pilot, lambda: not chat_of(pilot).busy)
        assert await chat_of(pilot).switch.open_chat(1)
        await until(pilot, lambda: "one two three four" in plain(newest(pilot)))
    assert app.return_code in (None, 0)
    replies = [store.conversation(chat.id).turns[0].reply for chat in store.list_conversations()]
    assert len(replies) == 8
    assert {reply.text for reply in replies if reply} == {"one two three four"}


async def test_what_could_not_be_stored_stays_on_the_screen() -> None:
    store = Store(None)

    def full(*_: object, **__: object) -> None:
        raise StoreError("The disk is full", "Free some space.")

    store.journal_reply = store.finish_reply = full  # type: ignore[method-assign, assignment]
    async with make_app(ScriptedEngine("Precious words."), store).run_test() as pilot:
        await say(pilot, "Hi")
        await idle(pilot)
        assert "Precious words." in plain(newest(pilot))
        assert "not being saved" in " ".join(notices(pilot))


async def test_the_keys_of_a_selected_turn_are_always_in_sight() -> None:
    async with make_app(ScriptedEngine("word\n\n" * 60)).run_test(size=(80, 24)) as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await pilot.press("tab")
        await pilot.pause()
        assert "c copy" in plain(pilot.app.screen.query_one(StatusBar))
        await pilot.press("escape")
        await pilot.pause()
        assert "c copy" not in plain(pilot.app.screen.query_one(StatusBar))


async def test_what_a_letter_did_to_a_turn_is_shown() -> None:
    async with make_app(ScriptedEngine("Yes.")).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await pilot.press("tab", "d")
        await until(pilot, lambda: newest(pilot).turn.context_policy is ContextPolicy.DROPPED)
        assert "Message 1: left out of the context." in toasts(pilot)
