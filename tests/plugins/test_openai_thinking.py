"""A server's thoughts are a part of their own, however it sends them, and are not sent back."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from chatlm import ChatlmError, Delta, EngineError, EngineEvent, Message, Request, StopReason
from chatlm.chat.session import ChatSession
from chatlm.config import config
from chatlm.store.store import Store
from chatlm.tui.chat.reply_view import ReplyView
from chatlm.types.parts import Image, Reasoning, Text
from tests.plugins.openai_server import (
    Script,
    cost,
    hangs,
    piece,
    refuses_fields,
    says,
    serving,
    streams,
)
from tests.plugins.test_openai import ending, engine_of, events_of, request, text_of
from tests.program import run_chatlm
from tests.tui.support import idle, make_app, newest, plain, say

pytestmark = pytest.mark.usefixtures("home")


def reasoning(text: str, field: str = "reasoning_content") -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {field: text}}]}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_streamed_as_its_own_part(field: str) -> None:
    chunks = (reasoning("Hm", field), reasoning("m.", field), piece("Yes."), piece("", "stop"))
    with serving(streams(*chunks, cost(3, 9))) as script:
        events = events_of(script, request("Hi"))
    deltas = [event for event in events if isinstance(event, Delta)]
    assert "".join(delta.text for delta in deltas if delta.part == "reasoning") == "Hmm."
    assert "".join(delta.text for delta in deltas if delta.part == "text") == "Yes."
    assert ending(events).usage.completion_tokens == 9


def test_a_chunk_may_contain_reasoning_and_text() -> None:
    both = {"choices": [{"index": 0, "delta": {"reasoning_content": "Hm.", "content": "Yes."}}]}
    with serving(streams(both, piece("", "stop"))) as script:
        deltas = [event for event in events_of(script, request("Hi")) if isinstance(event, Delta)]
    assert [(delta.part, delta.text) for delta in deltas if delta.text] == [
        ("reasoning", "Hm."),
        ("text", "Yes."),
    ]


def test_reasoning_counts_as_tokens_but_not_as_a_stop_string() -> None:
    chunks = (reasoning("STOP"), piece("a"), piece("STOP"), piece("b"), piece("", "stop"))
    with serving(streams(*chunks)) as script:
        events = events_of(script, request("Hi", stop=("STOP",)))
        cut = events_of(script, request("Hi", max_tokens=1))
    assert text_of(events) == "STOPa"
    assert ending(events).stop_reason is StopReason.STOP_STRING
    assert ending(events).usage.completion_tokens == 3
    assert (text_of(cut), ending(cut).stop_reason) == ("STOP", StopReason.LENGTH)


def parts_of(events: list[EngineEvent]) -> dict[str, str]:
    """The text of each part."""
    texts = {"reasoning": "", "text": ""}
    for event in events:
        if isinstance(event, Delta):
            texts[event.part] += event.text
    return texts


THINKING = "<think>\nSo 2 STOP.\n</think>\n\nIt is <think>4</think>."
SPLITS = (
    [THINKING],
    list(THINKING),
    ["<thi", "nk>\nSo 2 STOP.\n</th", "ink>\n", "\nIt is <think>4</think>."],
)


@pytest.mark.parametrize("pieces", SPLITS, ids=["whole", "characters", "inside-tags"])
def test_thoughts_inside_the_content_are_told_from_it(pieces: list[str]) -> None:
    with serving(says(*pieces)) as script:
        events = events_of(script, request("Hi", stop=("STOP",)))
    assert parts_of(events) == {"reasoning": "So 2 STOP.", "text": "It is <think>4</think>."}
    assert ending(events).stop_reason is StopReason.END


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write <think> first.", ("", "Write <think> first.")),
        ("<thin", ("", "<thin")),
        ("<think>so far", ("so far", "")),
        ("<think>so </thin", ("so </thin", "")),
        ("<think></think>Yes.", ("", "Yes.")),
    ],
)
def test_nothing_else_is_taken_for_a_thought_and_nothing_is_lost(
    text: str, expected: tuple[str, str]
) -> None:
    with serving(says(*text)) as script:
        texts = parts_of(events_of(script, request("Hi")))
    assert (texts["reasoning"], texts["text"]) == expected


def test_a_server_that_tells_them_apart_may_write_about_tags() -> None:
    chunks = (reasoning("Hm."), piece("<think>"), piece(" is a tag."), piece("", "stop"))
    with serving(streams(*chunks)) as script:
        texts = parts_of(events_of(script, request("Hi")))
    assert texts == {"reasoning": "Hm.", "text": "<think> is a tag."}


def test_an_answer_that_is_continued_may_go_on_with_a_tag() -> None:
    with serving(says("<think>", "x</think>")) as script:
        texts = parts_of(events_of(script, request("Hi", "The tag is ")))
    assert texts == {"reasoning": "", "text": "<think>x</think>"}


def test_text_that_is_held_back_belongs_to_its_part() -> None:
    with serving(says(*"<think>a</think>b")) as script:
        events = events_of(script, request("Hi"))
    held = [(e.part, e.withheld) for e in events if isinstance(e, Delta) and e.withheld]
    assert ("text", "<thin") in held
    assert ("reasoning", "</thin") in held


def test_the_tokens_of_thoughts_are_the_servers_if_it_counts_them() -> None:
    chunks = (reasoning("H"), reasoning("m."), piece("Yes."), piece("", "stop"))
    counted = cost(3, 90)
    counted["usage"]["completion_tokens_details"] = {"reasoning_tokens": 80}
    with serving(streams(*chunks, cost(3, 9)), streams(*chunks, counted)) as script:
        estimated = ending(events_of(script, request("Hi"))).usage
        exact = ending(events_of(script, request("Hi"))).usage
    assert (estimated.reasoning_tokens, estimated.completion_tokens) == (2, 9)
    assert (exact.reasoning_tokens, exact.completion_tokens) == (80, 90)


def test_thoughts_inside_the_content_count_as_such() -> None:
    with serving(says("<think>", "so", " on", "</think>", "Yes")) as script:
        usage = ending(events_of(script, request("Hi"))).usage
    assert usage.completion_tokens == 5
    assert usage.reasoning_tokens == 3  # the opening tag as well: a chunk counts as a token


def test_while_a_server_thinks_silence_belongs_to_the_thought() -> None:
    with serving(hangs(reasoning("Hm."))) as script, engine_of(script) as engine:
        stream = engine.stream(request("Hi"))
        deltas = (event for event in stream if isinstance(event, Delta))
        first, second = itertools.islice(deltas, 2)
        stream.close()
    assert (first.text, first.part) == ("Hm.", "reasoning")
    assert (second.text, second.part) == ("", "reasoning")


def test_a_chat_stores_thoughts_and_the_next_request_has_none() -> None:
    chunks = (reasoning("Two "), reasoning("and two."), piece("4"), piece("", "stop"), cost(3, 3))
    with serving(streams(*chunks), says("Yes.")) as script, engine_of(script) as engine:
        session = ChatSession(store := Store(None), lambda: engine)
        list(session.send("2+2?"))
        list(session.send("Sure?"))
    first = store.conversation(1).turns[0].reply
    assert first is not None
    assert first.parts == (Reasoning("Two and two.", None, 2), Text("4"))
    assert script.asked[1].body["messages"] == [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Sure?"},
    ]


ANSWER = Message("assistant", (Reasoning("Hm."), Text("Yes.")))


def test_reasoning_is_not_sent_back_and_other_parts_are_refused() -> None:
    picture = Image("image/png", 1, 1, "0" * 64)
    with serving() as script, engine_of(script) as engine:
        list(engine.stream(Request((Message("user", "Hi"), ANSWER, Message("user", "Why?")))))
        with pytest.raises(ChatlmError, match="image"):
            list(engine.stream(Request((Message("user", (picture, Text("What is it?"))),))))
    assert script.asked[0].body["messages"][1] == {"role": "assistant", "content": "Yes."}
    assert len(script.asked) == 1


def test_a_server_that_wants_thoughts_gets_them() -> None:
    with serving() as script:
        config.set_value("plugins.openai.thoughts_to", f'["{script.url}"]')
        with engine_of(script) as engine:
            list(engine.stream(Request((Message("user", "Hi"), ANSWER, Message("user", "Why?")))))
    assert [message.get("reasoning_content") for message in script.asked[0].body["messages"]] == [
        None, "Hm.", None,
    ]  # fmt: skip


def test_a_reply_that_was_cut_in_its_thought_is_asked_anew() -> None:
    cut = Message("assistant", (Reasoning("Two and"),))
    with serving(says("4")) as script, engine_of(script) as engine:
        list(engine.stream(Request((Message("user", "2+2?"), cut))))
    body = script.asked[0].body
    assert body["messages"] == [{"role": "user", "content": "2+2?"}]
    assert "continue_final_message" not in body


def switch_of(script: Script) -> tuple[Any, Any]:
    body = script.asked[-1].body
    return body.get("reasoning_effort"), body.get("chat_template_kwargs")


@pytest.mark.parametrize(
    ("thinking", "sent"),
    [
        (None, (None, None)),
        ("auto", (None, None)),
        ("off", ("none", {"enable_thinking": False})),
        ("high", ("high", {"enable_thinking": True})),
    ],
)
def test_the_switch_is_passed_on(thinking: Any, sent: tuple[Any, Any]) -> None:
    with serving() as script:
        events_of(script, request("Hi", thinking=thinking))
    assert switch_of(script) == sent


@pytest.mark.parametrize(
    ("refused", "left"),
    [
        ("chat_template_kwargs", ("low", None)),
        ("reasoning_effort", (None, {"enable_thinking": True})),
    ],
)
def test_a_server_that_knows_one_switch_gets_that_one(refused: str, left: tuple[Any, Any]) -> None:
    with serving(refuses_fields(refused)) as script, engine_of(script) as engine:
        assert text_of(list(engine.stream(request("Hi", thinking="low")))) == "fine"
        assert switch_of(script) == left
        list(engine.stream(request("Hi", thinking="low")))
    assert len(script.asked) == 3  # the second request has it left out from the start


def test_a_server_without_a_switch_is_an_error_that_says_what_to_do() -> None:
    strict = refuses_fields("chat_template_kwargs", "reasoning_effort")
    with serving(strict) as script:
        with pytest.raises(EngineError, match="cannot switch thinking as asked") as caught:
            events_of(script, request("Hi", thinking="off"))
        assert text_of(events_of(script, request("Hi"))) == "fine"
    assert "/thinking auto" in caught.value.hint


@pytest.mark.parametrize("text", ["\n", "  \n Hello", "\n<b>"])
def test_white_space_before_an_answer_without_a_thought_is_kept(text: str) -> None:
    with serving(says(*text)) as script:
        assert parts_of(events_of(script, request("Hi"))) == {"reasoning": "", "text": text}


def test_text_before_a_server_s_own_thought_is_kept() -> None:
    chunks = (piece("<th"), reasoning("Hm."), piece("Yes."), piece("", "stop"))
    with serving(streams(*chunks)) as script:
        texts = parts_of(events_of(script, request("Hi")))
    assert texts == {"reasoning": "Hm.", "text": "<thYes."}


def test_ask_prints_the_answer_and_shows_the_thought_on_stderr() -> None:
    chunks = (reasoning("Two "), reasoning("and two."), piece("4"), piece("", "stop"), cost(3, 3))
    with serving(streams(*chunks)) as script:
        done = run_chatlm("ask", "-m", script.model, "--show-thinking", "2+2?")
        silent = run_chatlm("ask", "-m", script.model, "2+2?")
    assert (done.stdout, silent.stdout) == ("4\n", "4\n")
    assert "Two and two.\n\n" in done.stderr
    assert "Two" not in silent.stderr


async def test_the_screen_folds_the_thoughts_of_a_server() -> None:
    chunks = (reasoning("Two "), reasoning("and two."), piece("4"), piece("", "stop"), cost(3, 3))
    with serving(streams(*chunks), says("Yes.")) as script, engine_of(script) as engine:
        app = make_app(open_engine=lambda model, report: engine)
        async with app.run_test(size=(80, 24)) as pilot:
            await say(pilot, "2+2?")
            await idle(pilot)
            view = newest(pilot)
            assert [plain(part) for part in view.query_one(ReplyView).children] == [
                "▸ Thought · 2 tokens", "4",
            ]  # fmt: skip
            await say(pilot, "Sure?")
            await idle(pilot)
    assert "Two" not in str(script.asked[1].body)
