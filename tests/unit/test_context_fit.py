"""Fitting a small context, and the prompts of engines without a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.engines.context_fit import fit_prompt, split_turns
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import ContextTooLong
from chatlm.types.events import PromptReady
from chatlm.types.messages import Message, Role
from chatlm.types.requests import Request, prompt_hash
from chatlm.types.sampling import Sampling

SYSTEM = Message("system", "Be brief.")


def message(role: Role, size: int, pinned: bool) -> Message:
    return Message(role, "x" * size, pinned)


sizes = st.integers(min_value=0, max_value=9)
chats = st.tuples(
    st.lists(st.builds(message, st.just("system"), sizes, st.just(False)), max_size=1),
    st.lists(
        st.builds(message, st.sampled_from(["user", "assistant"]), sizes, st.booleans()),
        max_size=9,
    ),
).map(lambda parts: (*parts[0], *parts[1]))


@given(
    chats,
    st.integers(min_value=1, max_value=60),
    st.integers(min_value=0, max_value=15),
    st.sampled_from([0, 1, 3]),
)
def test_the_oldest_turns_are_dropped_first(
    messages: tuple[Message, ...], limit: int, reserve: int, wrong: int
) -> None:
    def size(turns: Sequence[Sequence[int]]) -> int:
        return sum(len(messages[index].text) + 1 for turn in turns for index in turn)

    def encode(kept: Sequence[int]) -> list[int]:
        return [index for index in kept for _ in range(len(messages[index].text) + 1)]

    estimates = [wrong * (len(message.text) + 1) for message in messages]

    turns = split_turns(messages)
    head = [[0]] if messages and messages[0].role == "system" else []
    loose = [turn for turn in turns[:-1] if not any(messages[i].pinned for i in turn)]
    must = [*head, *(turn for turn in turns if turn not in loose)]
    try:
        fitted = fit_prompt(
            messages, encode, estimates, context_length=limit, reply_reserve=reserve
        )
    except ContextTooLong as error:
        assert size(must) >= limit
        pinned = any(turn not in loose for turn in turns[:-1])
        assert ("pinned" in str(error)) == pinned
        assert ("unpin" in error.hint) == pinned
        return
    assert size(must) < limit
    assert fitted.ids == encode(fitted.included)
    assert len(fitted.ids) < limit
    assert sorted([*fitted.included, *fitted.omitted]) == list(range(len(messages)))
    assert list(fitted.included) == sorted(fitted.included)
    left = [turn for turn in loose if turn[0] in fitted.omitted]
    assert list(fitted.omitted) == [index for turn in left for index in turn]
    assert left == loose[: len(left)]
    room = limit - max(reserve, 1)
    if len(left) < len(loose):
        assert len(fitted.ids) <= room
    if left:
        needed = next(
            count
            for count in range(len(loose) + 1)
            if size([*must, *loose[count:]]) <= room or count == len(loose)
        )
        spare = size(left) - size(loose[:needed])
        assert 0 <= spare <= max(0, room - size([*head, *_pinned(turns, loose)])) // 2


def _pinned(turns: Sequence[list[int]], loose: Sequence[list[int]]) -> list[list[int]]:
    return [turn for turn in turns[:-1] if turn not in loose]


def left_out_as_it_grows(engine: ScriptedEngine, messages: Sequence[Message]) -> list[int]:
    """Return how many messages are left out after each message of a chat."""
    asked = Sampling(max_tokens=20)
    return [
        len(engine.preview(Request(tuple(messages[:count]), asked)).omitted)
        for count in range(1, len(messages) + 1)
    ]


def test_most_turns_of_a_long_chat_drop_what_the_one_before_dropped() -> None:
    engine = ScriptedEngine(context=400)
    messages = [SYSTEM]
    for number in range(60):
        messages += [
            Message("user", "word " * (3 + number % 5)),
            Message("assistant", "word " * (8 + number % 7)),
        ]
    left_out = left_out_as_it_grows(engine, messages)
    assert left_out == sorted(left_out)
    full = left_out.index(next(filter(None, left_out)))
    changes = len(set(left_out[full:]))
    assert len(left_out) - full > 60
    assert changes * 10 <= len(left_out) - full
    least = min(
        len(engine.preview(Request(tuple(messages[:count]), Sampling(max_tokens=20))).tokens)
        for count in range(full, len(messages))
    )
    assert least > 0.4 * 400


def test_what_a_long_chat_drops_follows_from_its_messages_alone() -> None:
    messages = [SYSTEM, *(Message("user", "word " * 9) for _ in range(40))]
    together = left_out_as_it_grows(ScriptedEngine(context=200), messages)
    for count in (17, 40, 23):
        reopened = ScriptedEngine(context=200)
        prompt = reopened.preview(Request(tuple(messages[: count + 1]), Sampling(max_tokens=20)))
        assert len(prompt.omitted) == together[count]


def test_a_long_newest_message_drops_turn_by_turn_where_groups_are_too_few() -> None:
    engine = ScriptedEngine(context=120)
    old = [Message("user", "word " * 8) for _ in range(9)]
    request = Request((*old, Message("user", "word " * 74)), Sampling(max_tokens=4))
    assert engine.preview(request).omitted == tuple(range(5))


def chat(*sizes: int, pinned: int | None = None) -> tuple[Message, ...]:
    """Return a system prompt and turns of one message with `sizes` words each."""
    turns = [Message("user", "word " * size, index == pinned) for index, size in enumerate(sizes)]
    return (SYSTEM, *turns)


def test_words_and_control_tokens_are_the_prompt() -> None:
    engine = ScriptedEngine()
    request = Request((SYSTEM, Message("user", "  Hi there,\n friend ")))
    prompt = engine.preview(request)
    assert "".join(token.text for token in prompt.tokens) == (
        "<system>Be brief.</system><user>  Hi there,\n friend </user>"
    )
    assert [token.message_index for token in prompt.tokens if not token.control] == [0, 0, 1, 1, 1]
    assert prompt.message_tokens == (4, 5)
    assert sum(prompt.message_tokens) == len(prompt.tokens) == engine.count_tokens(request.messages)
    ids = [token.id for token in prompt.tokens]
    assert [engine.vocabulary[number] for number in ids] == [token.text for token in prompt.tokens]
    assert prompt.hash == prompt_hash(ids)
    fitted = next(iter(engine.stream(request)))
    assert isinstance(fitted, PromptReady)
    assert (fitted.prompt_tokens, fitted.prompt_hash) == (len(prompt.tokens), prompt.hash)


def test_a_pinned_turn_stays_where_others_are_dropped() -> None:
    engine = ScriptedEngine(context=40)
    request = Request(chat(10, 10, 10, pinned=0), Sampling(max_tokens=5))
    prompt = engine.preview(request)
    assert prompt.omitted == (2,)
    assert (prompt.context_length, prompt.reply_reserve) == (40, 5)
    assert prompt.message_tokens == (4, 12, 12, 12)
    fitted = next(iter(engine.stream(request)))
    assert isinstance(fitted, PromptReady)
    assert fitted.omitted_messages == (request.messages[2],)
    assert {token.message_index for token in prompt.tokens} == {None, 0, 1, 3}


def test_too_many_pinned_turns_have_a_hint_to_unpin() -> None:
    engine = ScriptedEngine(context=30)
    with pytest.raises(
        ContextTooLong, match="the pinned turn take 33 tokens; the context holds 30"
    ):
        engine.preview(Request(chat(20, 1, 5, pinned=0)))


def test_a_chat_of_any_length_is_fitted_without_encoding_much_more_than_fits() -> None:
    messages = [Message("user", "x" * 9) for _ in range(10_000)]
    encoded: list[int] = []

    def encode(kept: Sequence[int]) -> list[int]:
        encoded.append(10 * len(kept))
        return [0] * (10 * len(kept))

    fitted = fit_prompt(messages, encode, [10] * 10_000, context_length=400, reply_reserve=100)
    assert 100 < len(fitted.ids) <= 300
    assert sum(encoded) < 1000
