"""Automatic compaction of turns that no longer fit the context."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from chatlm.chat.session import ChatSession
from chatlm.chat.summary import MAX_SUMMARY_TOKENS, THOUGHT_TOKENS, write_summary
from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from chatlm.types.conversations import SUMMARY_PREFIX, ContextPolicy, Turn
from chatlm.types.sampling import Sampling, Thinking

LONG = "word " * 40
"""An answer; with its question, a turn takes 50 tokens."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "chats.db")


def full_chat(store: Store) -> tuple[ChatSession, ScriptedEngine, tuple[Turn, ...]]:
    """Return a chat of five turns whose first two do not fit."""
    engine = ScriptedEngine(*[LONG] * 5, context=240)
    session = ChatSession(store, lambda: engine, sampling=Sampling(max_tokens=40))
    for number in range(5):
        list(session.send(f"This is my question number {number}"))
    assert session.conversation is not None
    turns = session.conversation.turns
    assert session.context_usage().omitted_turns == {turns[0].id, turns[1].id}
    return session, engine, turns


def compacted(session: ChatSession) -> list[int]:
    return [turn.id for turn in session.compact() if turn is not None]


def test_turns_that_do_not_fit_are_replaced_by_their_summaries(store: Store) -> None:
    session, engine, turns = full_chat(store)
    engine.queue("The first, in short.", "The second, in short.", "Sure.")
    assert compacted(session) == [turns[0].id, turns[1].id]
    usage = session.context_usage()
    assert usage.omitted_turns == frozenset()
    assert usage.used_tokens <= usage.context_length - usage.reply_reserve
    first = store.turn(turns[0].id)
    assert (first.context_policy, first.summary) == (
        ContextPolicy.SUMMARISED,
        "The first, in short.",
    )
    list(session.send("Next?"))
    texts = [message.text for message in engine.requests[-1].messages]
    assert texts[:2] == [
        f"{SUMMARY_PREFIX}The first, in short.",
        f"{SUMMARY_PREFIX}The second, in short.",
    ]


def test_a_summary_that_the_user_took_back_is_not_written_again(store: Store) -> None:
    session, engine, turns = full_chat(store)
    engine.queue("The first.", "The second.")
    compacted(session)
    for turn in turns[:2]:
        store.set_context_policy(turn.id, ContextPolicy.AUTO)
    asked = len(engine.requests)
    assert compacted(session) == []
    assert len(engine.requests) == asked
    assert store.turn(turns[0].id).summary == "The first."


def test_nothing_is_stored_when_compaction_is_stopped(store: Store) -> None:
    session, engine, turns = full_chat(store)
    engine.queue("The first, in short.")
    with closing(session.compact()) as steps:
        next(steps)
    assert session.conversation is not None
    assert session.conversation.turns == turns


def test_a_policy_chosen_meanwhile_wins_over_a_summary(store: Store) -> None:
    session, engine, turns = full_chat(store)
    engine.queue("The first.", "The second.")
    with closing(session.compact()) as steps:
        next(steps)
        store.set_context_policy(turns[0].id, ContextPolicy.PINNED)
        changed = [turn.id for turn in steps if turn is not None]
    assert changed == [turns[1].id]
    assert store.turn(turns[0].id).context_policy is ContextPolicy.PINNED


def test_an_empty_summary_leaves_its_turn_and_the_others_go_on(store: Store) -> None:
    session, engine, turns = full_chat(store)
    engine.queue("  ", "The second.")
    assert compacted(session) == [turns[1].id]
    assert store.turn(turns[0].id) == turns[0]


def test_a_summary_longer_than_its_turn_is_kept_but_not_used(store: Store) -> None:
    session, engine, turns = full_chat(store)
    engine.queue("many words " * 40, "The second.")
    assert compacted(session) == [turns[1].id]
    first = store.turn(turns[0].id)
    assert first.context_policy is ContextPolicy.AUTO
    assert first.summary.startswith("many words")


def test_a_chat_that_fits_is_not_compacted(store: Store) -> None:
    engine = ScriptedEngine(LONG)
    session = ChatSession(store, lambda: engine)
    assert compacted(session) == []
    list(session.send("Hi"))
    assert compacted(session) == []
    assert len(engine.requests) == 1


@pytest.mark.parametrize(
    ("levels", "thinking", "budget"),
    [
        (("off", "low", "medium", "high"), "off", None),
        (("low", "medium", "high"), "low", THOUGHT_TOKENS),
        ((), None, THOUGHT_TOKENS),
    ],
)
def test_a_summary_takes_few_thoughts_and_leaves_room_for_them(
    levels: tuple[Thinking, ...], thinking: Thinking | None, budget: int | None
) -> None:
    engine = ScriptedEngine("Short.", context=600, thinks=True, thinking_levels=levels)
    assert "".join(write_summary(engine, "Why?", "word " * 1000)) == "Short."
    request = engine.requests[0]
    assert (request.sampling.thinking, request.sampling.thinking_budget) == (thinking, budget)
    used = engine.count_tokens(request.messages)
    assert 600 - used >= MAX_SUMMARY_TOKENS + (budget or 0)


def test_a_model_that_does_not_think_is_not_told_to_stop_it() -> None:
    engine = ScriptedEngine("Short.", thinks=False)
    assert "".join(write_summary(engine, "Why?", "Because.")) == "Short."
    assert engine.requests[0].sampling.thinking is None
