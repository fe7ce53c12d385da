"""The values a chat is made of keep their promises."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chatlm
from chatlm.errors import UsageError
from chatlm.types.messages import Conversation, Message, Reply, StopReason, Turn, Usage, utc_now
from chatlm.types.sampling import DEFAULT_SAMPLING, INTEGER_SETTINGS, RANGES, Sampling


def turn(position: int, *replies: Reply, chosen: int | None = None) -> Turn:
    user = Message("user", f"q{position}")
    return Turn(
        id=position + 1, position=position, user=user, replies=replies, active_reply_id=chosen
    )


def test_only_replies_that_were_cut_short_can_go_on() -> None:
    able = {reason for reason in StopReason if reason.can_continue}
    assert able == set(StopReason) - {StopReason.END, StopReason.STOP_STRING}
    assert Reply(1, 1).can_continue
    assert not Reply(1, 1, stop_reason=StopReason.END).can_continue


def test_the_stop_reasons_are_the_words_of_the_design() -> None:
    assert [reason.value for reason in StopReason] == [
        *("end", "stop_string", "length", "context_full", "criterion", "cancelled", "error")
    ]


def test_the_standing_reply() -> None:
    first, second = Reply(1, 1, "a"), Reply(2, 2, "b")
    assert turn(0).reply is None
    assert turn(0, first, second).reply == second
    assert turn(0, first, second, chosen=1).reply == first
    assert turn(0, first, second, chosen=99).reply == second


def test_messages_are_system_then_each_turns_two() -> None:
    turns = (turn(0, Reply(1, 1, "a0")), turn(1, Reply(2, 1, "")), turn(2))
    chat = Conversation(1, system="s", turns=turns)
    assert [(m.role, m.text) for m in chat.messages()] == [
        ("system", "s"),
        ("user", "q0"),
        ("assistant", "a0"),
        ("user", "q1"),
        ("user", "q2"),
    ]
    assert chat.messages(before=1) == chat.messages()[:3]
    assert dataclasses.replace(chat, system="").messages(before=0) == ()


def test_speed_is_of_the_tokens_after_the_first() -> None:
    assert Usage(completion_tokens=11, decode_seconds=2.0).tokens_per_second == 5.0
    assert Usage(completion_tokens=1, decode_seconds=2.0).tokens_per_second is None
    assert Usage(completion_tokens=5).tokens_per_second is None


def test_moments_are_utc() -> None:
    assert utc_now().tzinfo is UTC


@pytest.mark.parametrize("name", RANGES)
def test_the_ends_of_each_range_are_in_it_and_what_lies_beyond_is_not(name: str) -> None:
    low, high, meaning = RANGES[name]
    step = 1 if name in INTEGER_SETTINGS else 0.001
    ends = [int(low), int(high)] if name in INTEGER_SETTINGS else [low, high]
    for value in ends:
        assert getattr(Sampling.from_dict({name: value}), name) == value
    beyond: list[Any] = [ends[0] - step, ends[1] + step, math.nan, math.inf, True, "1", [1]]
    for value in beyond:
        with pytest.raises(UsageError, match=name) as caught:
            Sampling.from_dict({name: value})
        assert meaning in caught.value.hint


def test_whole_numbers_are_whole_and_the_others_need_not_be() -> None:
    for name in RANGES:
        if name in INTEGER_SETTINGS:
            with pytest.raises(UsageError, match="a whole number"):
                Sampling.from_dict({name: 1.0})
        else:
            assert getattr(Sampling.from_dict({name: 1}), name) == 1


def test_stop_texts() -> None:
    assert Sampling.from_dict({"stop": "x"}).stop == ("x",)
    assert Sampling.from_dict({"stop": ["x", "y"]}).stop == ("x", "y")
    for wrong in ("", ["x", ""], [1], 3):
        with pytest.raises(UsageError, match="stop"):
            Sampling.from_dict({"stop": wrong})


def test_an_unknown_setting_is_named_beside_those_there_are() -> None:
    with pytest.raises(UsageError, match="unknown sampling setting heat") as caught:
        Sampling.from_dict({"heat": 1})
    assert "temperature" in caught.value.hint


def test_over_fills_only_what_is_open() -> None:
    mine = Sampling(temperature=0.0, stop=("x",))
    filled = mine.with_fallback(DEFAULT_SAMPLING)
    assert (filled.temperature, filled.stop) == (0.0, ("x",))
    assert filled.top_p == DEFAULT_SAMPLING.top_p
    assert Sampling().with_fallback(mine) == mine


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.none() | st.floats(0, 5),
    top_k=st.none() | st.integers(0, 1_000_000),
    seed=st.none() | st.integers(0, 2**63 - 1),
    stop=st.lists(st.text(min_size=1)).map(tuple),
)


@given(SAMPLINGS)
def test_json_gives_sampling_back(sampling: Sampling) -> None:
    assert Sampling.from_dict(json.loads(json.dumps(sampling.to_dict()))) == sampling


@given(SAMPLINGS, SAMPLINGS, SAMPLINGS)
def test_over_is_associative(a: Sampling, b: Sampling, c: Sampling) -> None:
    assert a.with_fallback(b).with_fallback(c) == a.with_fallback(b.with_fallback(c))


@pytest.mark.parametrize("name", chatlm.__all__)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(chatlm, name)
    assert name in dir(chatlm)


def test_no_other_name_is_there() -> None:
    name = "nonsense"
    with pytest.raises(AttributeError, match=name):
        getattr(chatlm, name)
