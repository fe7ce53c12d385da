"""A model that was trained to think does so in the engine: parts, budget, switch and history."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

from chatlm.chat.session import ChatSession
from chatlm.engines.local_engine import LocalEngine
from chatlm.store.store import Store
from chatlm.types.events import Delta, Finished
from chatlm.types.messages import Message
from chatlm.types.parts import Reasoning, Text
from chatlm.types.replies import StopReason
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from tests.thinker import RANGE, answer, question, thought


def generate(
    engine: LocalEngine, messages: Sequence[Message], **settings: Any
) -> tuple[str, str, Finished]:
    """Return the thought, the answer and the end."""
    request = Request(tuple(messages), Sampling(temperature=0.0, **settings))
    texts = {"reasoning": "", "text": ""}
    with closing(engine.stream(request)) as events:
        for event in events:
            if isinstance(event, Delta):
                texts[event.part] += event.text
            if isinstance(event, Finished):
                return texts["reasoning"], texts["text"], event
    raise AssertionError("the stream ended without Finished")


ASKED = Message("user", question(3, 4))
HISTORY = [
    ASKED,
    Message("assistant", (Reasoning(thought(3, 4)), Text(answer(3, 4)))),
    Message("user", question(5, 2)),
]


def test_every_sum_is_thought_about_and_answered(thinking_engine: LocalEngine) -> None:
    for a in RANGE:
        for b in RANGE:
            thoughts, text, end = generate(thinking_engine, [Message("user", question(a, b))])
            assert (thoughts, text) == (thought(a, b), answer(a, b))
            assert end.stop_reason is StopReason.END


def test_switched_off_it_does_not_think(thinking_engine: LocalEngine) -> None:
    thoughts, text, end = generate(thinking_engine, [ASKED], thinking="off")
    assert (thoughts, text) == ("", answer(3, 4))
    thinking = generate(thinking_engine, [ASKED])[2]
    assert end.usage.completion_tokens < thinking.usage.completion_tokens


@pytest.mark.parametrize("level", ["low", "high"])
def test_it_thinks_as_much_as_it_is_told(level: str, thinking_engine: LocalEngine) -> None:
    thoughts, text, _ = generate(thinking_engine, [ASKED], thinking=level)
    assert (thoughts, text) == (thought(3, 4, level), answer(3, 4))


def test_a_budget_closes_the_thought_and_the_answer_follows(thinking_engine: LocalEngine) -> None:
    whole = thought(3, 4, "high")
    thoughts, text, end = generate(thinking_engine, [ASKED], thinking="high", thinking_budget=3)
    assert thoughts
    assert whole.startswith(thoughts)
    assert len(thoughts) < len(whole)
    assert end.usage.reasoning_tokens == 3
    assert (text, end.stop_reason) == (answer(3, 4), StopReason.END)


@pytest.mark.parametrize(("limit", "expected"), [(1, "It"), (2, "It is")])
def test_max_tokens_counts_the_answer_alone(
    limit: int, expected: str, thinking_engine: LocalEngine
) -> None:
    thoughts, text, end = generate(thinking_engine, [ASKED], max_tokens=limit)
    assert (thoughts, text) == (thought(3, 4), expected)
    assert end.stop_reason is StopReason.LENGTH


def test_the_second_turn_reads_no_thought(thinking_engine: LocalEngine) -> None:
    encoder = thinking_engine.prompt_encoder
    prompt = thinking_engine.preview(Request(tuple(HISTORY)))
    ids = [token.id for token in prompt.tokens]
    assert thought(3, 4) not in encoder.decode(ids)
    assert {encoder.control_tokens[marker] for marker in ("<think>", "</think>")}.isdisjoint(ids)
    thoughts, text, _ = generate(thinking_engine, HISTORY)
    assert (thoughts, text) == (thought(5, 2), answer(5, 2))


def test_its_prompts_are_those_of_transformers(thinking_engine: LocalEngine) -> None:
    from transformers import AutoTokenizer

    from tests.thinker import folder

    chat = [
        {"role": "user", "content": HISTORY[0].text},
        {"role": "assistant", "content": answer(3, 4), "reasoning_content": thought(3, 4)},
        {"role": "user", "content": HISTORY[2].text},
    ]
    tokenizer = AutoTokenizer.from_pretrained(folder())
    for thinking, variables in (
        ("auto", {}),
        ("off", {"enable_thinking": False}),
        ("high", {"enable_thinking": True, "reasoning_effort": "high"}),
    ):
        expected = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=False, **variables
        )
        request = Request(tuple(HISTORY), Sampling.from_dict({"thinking": thinking}))
        prompt = thinking_engine.preview(request)
        assert [token.id for token in prompt.tokens] == expected, thinking


def test_a_reply_cut_in_its_thought_goes_on_thinking(thinking_engine: LocalEngine) -> None:
    cut = Message("assistant", (Reasoning("3 and 4"),))
    assert generate(thinking_engine, [ASKED, cut])[:2] == (" make 7.", answer(3, 4))
    encoder = thinking_engine.prompt_encoder
    prompt = encoder.decode(encoder.encode([ASKED, cut]))
    assert prompt.endswith("<|im_start|>assistant\n<think>\n3 and 4")


def stopped(engine: LocalEngine, store: Store, after: int) -> ChatSession:
    """Return a chat whose reply was stopped after some events with new tokens."""
    session = ChatSession(store, lambda: engine, sampling=Sampling(temperature=0.0))
    with closing(session.send(question(3, 4))) as events:
        deltas = (event for event in events if isinstance(event, Delta))
        for _ in range(after):
            next(deltas, None)
    return session


@pytest.mark.parametrize("after", range(1, 17))
def test_a_reply_may_be_stopped_after_any_token_and_continued(
    after: int, thinking_engine: LocalEngine
) -> None:
    with Store(None) as store:
        session = stopped(thinking_engine, store, after)
        cut = store.conversation(1).turns[0].reply
        assert cut is not None
        assert all(part.text.strip() for part in cut.parts if isinstance(part, Reasoning | Text))
        with closing(session.continue_reply()) as events:
            list(events)
        reply = store.conversation(1).turns[0].reply
    assert reply is not None
    assert (reply.reasoning.rstrip(), reply.text) == (thought(3, 4), answer(3, 4))
    assert reply.stop_reason is StopReason.END
    assert reply.thoughts.tokens is not None


def test_a_message_about_thoughts_opens_none(thinking_engine: LocalEngine) -> None:
    cut = Message("assistant", (Reasoning("3 and 4"),))
    encoder = thinking_engine.prompt_encoder
    ids = encoder.encode([Message("user", "What does <think> do?"), cut])
    assert ids.count(encoder.control_tokens["<think>"]) == 1
