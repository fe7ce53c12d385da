"""Invariants of the value types of a chat."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.errors import UsageError
from chatlm.types.conversations import ContextPolicy, Conversation, Turn
from chatlm.types.messages import Message
from chatlm.types.parts import Image, Reasoning, Text, ToolCall, ToolResult
from chatlm.types.replies import Reply, ReplyStep, StopReason, Usage, utc_now
from chatlm.types.sampling import DEFAULT_SAMPLING, NUMERIC_SAMPLING, Sampling


def turn(position: int, *replies: Reply, chosen: int | None = None) -> Turn:
    user = Message("user", f"q{position}")
    return Turn(
        id=position + 1, position=position, user=user, replies=replies, active_reply_id=chosen
    )


def test_only_replies_that_were_cut_short_can_go_on() -> None:
    able = {reason for reason in StopReason if reason.can_continue}
    assert {reason.value for reason in able} == {
        *("length", "context_full", "criterion", "tool_limit", "cancelled", "error"),
        "tool_calls",
    }
    assert Reply(1, 1).can_continue
    assert not Reply(1, 1, stop_reason=StopReason.END).can_continue


def test_the_stop_reasons_are_the_words_of_the_design() -> None:
    assert [reason.value for reason in StopReason] == [
        *("end", "stop_string", "length", "context_full", "criterion", "tool_calls", "tool_limit"),
        *("nothing_relevant", "refusal", "content_filter", "empty", "cancelled", "error"),
    ]


def test_each_stop_reason_has_the_exit_code_of_ask() -> None:
    codes = {reason.value: reason.exit_code for reason in StopReason}
    assert {reason: code for reason, code in codes.items() if code} == {
        "nothing_relevant": 3,
        "refusal": 4,
        "content_filter": 4,
        "empty": 4,
        "cancelled": 130,
        "error": 1,
    }


def test_only_a_turn_that_ended_can_be_empty() -> None:
    empty = {reason.value for reason in StopReason if reason.if_answered(False) is not reason}
    assert empty == {"end", "tool_calls"}
    assert StopReason.END.if_answered(False) is StopReason.EMPTY
    assert all(reason.if_answered(True) is reason for reason in StopReason)


LOOKUP = ReplyStep(
    (Reasoning("Hm."), Text("Let me look."), ToolCall("c1", "add", '{"a": 1}')),
    StopReason.TOOL_CALLS,
    Usage(10, 2, 5, 0.5, 1.0),
)
LOOKED_UP = dataclasses.replace(LOOKUP, parts=(*LOOKUP.parts, ToolResult("c1", "add", "2")))
ANSWER = ReplyStep((Text(" It is 2."),), StopReason.END, Usage(20, 4, 3, 0.25, 0.5))


def test_a_reply_joins_its_steps() -> None:
    reply = Reply(1, 1, steps=(LOOKED_UP, ANSWER))
    assert (reply.text, reply.reasoning) == ("Let me look. It is 2.", "Hm.")
    assert (reply.stop_reason, reply.usage) == (StopReason.END, Usage(30, 6, 8, 0.5, 1.5))
    assert not reply.is_plain
    assert reply.with_delta("!").steps[1].parts == (Text(" It is 2.!"),)
    thinking = reply.with_delta("So", "reasoning").with_stop_reason(None)
    assert thinking.steps[1].parts == (Text(" It is 2."), Reasoning("So"))
    assert thinking.can_continue
    with pytest.raises(TypeError, match="steps, or the text"):
        Reply(1, 1, "text", steps=(ANSWER,))


def test_a_reply_of_one_text_says_so_and_has_no_steps_in_json() -> None:
    plain = Reply(1, 1, "a", StopReason.END, usage=Usage(1, 0, 2))
    assert plain.is_plain
    assert plain == Reply(1, 1, steps=plain.steps, created=plain.created)
    assert "steps" not in plain.to_dict()
    steps = Reply(1, 1, steps=(LOOKED_UP, ANSWER)).to_dict()["steps"]
    assert tuple(map(ReplyStep.from_dict, steps)) == (LOOKED_UP, ANSWER)


def test_a_turn_is_read_with_tool_calls_and_results_but_not_with_thoughts_alone() -> None:
    image = Image("image/png", 3, 2, "a" * 64)
    thought = ReplyStep((Reasoning("Wait."),), StopReason.CANCELLED)
    asked = Turn(
        *(1, 0, Message("user", (Text("How many?"), image))),
        replies=(Reply(1, 1, steps=(LOOKED_UP, ANSWER, thought)),),
        context_policy=ContextPolicy.PINNED,
    )
    assert asked.messages() == (
        Message("user", (Text("How many?"), image), pinned=True),
        Message("assistant", LOOKUP.parts, pinned=True),
        Message("tool", (ToolResult("c1", "add", "2"),), pinned=True),
        Message("assistant", " It is 2.", pinned=True),
    )


def test_the_active_reply() -> None:
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


@pytest.mark.parametrize("name", NUMERIC_SAMPLING)
def test_the_ends_of_each_range_are_in_it_and_what_lies_beyond_is_not(name: str) -> None:
    spec = NUMERIC_SAMPLING[name]
    step = 1 if spec.is_integer else 0.001
    ends = [spec.minimum, spec.maximum]
    for value in ends:
        assert getattr(Sampling.from_dict({name: value}), name) == value
    beyond: list[Any] = [ends[0] - step, ends[1] + step, math.nan, math.inf, True, "1", [1]]
    for value in beyond:
        with pytest.raises(UsageError, match=name) as caught:
            Sampling.from_dict({name: value})
        assert spec.help in caught.value.hint


def test_whole_numbers_are_whole_and_the_others_need_not_be() -> None:
    for name, spec in NUMERIC_SAMPLING.items():
        if spec.is_integer:
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


def test_an_unknown_setting_is_named_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown sampling setting heat") as caught:
        Sampling.from_dict({"heat": 1})
    assert "temperature" in caught.value.hint


def test_over_fills_only_unset_values() -> None:
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
def test_sampling_survives_json(sampling: Sampling) -> None:
    assert Sampling.from_dict(json.loads(json.dumps(sampling.to_dict()))) == sampling


@given(SAMPLINGS, SAMPLINGS, SAMPLINGS)
def test_over_is_associative(a: Sampling, b: Sampling, c: Sampling) -> None:
    assert a.with_fallback(b).with_fallback(c) == a.with_fallback(b.with_fallback(c))
