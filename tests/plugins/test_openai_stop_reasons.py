"""Why a server's reply ended: refusals, tool calls, filters, empty replies and failures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from chatlm import (
    ChatlmError,
    ContentFiltered,
    ContextTooLong,
    Finished,
    StopReason,
    ToolCall,
    load_config,
    side_chats,
)
from chatlm.store.store import Store
from chatlm.types.setups import Setup
from chatlm_arena.answers import AnswerRequest, Seat, generate_answers
from chatlm_arena.contestants import Contestant
from tests.plugins.openai_server import (
    Act,
    Asked,
    Handler,
    breaks_off,
    piece,
    refuses,
    says,
    serving,
    streams,
)
from tests.plugins.test_openai import ending, events_of, request, text_of
from tests.plugins.test_openai_errors import said_until_it_failed
from tests.program import run_chatlm

pytestmark = pytest.mark.usefixtures("home")


def delta(**fields: Any) -> dict[str, Any]:
    """A chunk with these fields of the message."""
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def calls(*rows: dict[str, Any]) -> dict[str, Any]:
    return delta(tool_calls=list(rows))


def outcome(act: Act) -> tuple[str, Finished]:
    with serving(act) as script:
        events = events_of(script, request("Hi", stop=("##",)))
    return text_of(events), ending(events)


REFUSAL = streams(
    delta(role="assistant", content=None, refusal=""),
    delta(refusal="I can't "),
    delta(refusal="help with that."),
    piece("", "stop"),
)


def test_a_refusal_is_shown_and_named() -> None:
    text, end = outcome(REFUSAL)
    assert (text, end.stop_reason) == ("I can't help with that.", StopReason.REFUSAL)
    assert end.usage.completion_tokens == 2


def test_a_refusal_may_follow_the_start_of_a_stop_string() -> None:
    text, end = outcome(streams(piece("So #"), delta(refusal=" No."), piece("", "stop")))
    assert (text, end.stop_reason) == ("So # No.", StopReason.REFUSAL)


CALL = ToolCall("c1", "weather", '{"city": "Rome"}')


@pytest.mark.parametrize("finish", ["tool_calls", "stop", "function_call", "tool_use"])
def test_tool_calls_arrive_in_fragments_of_several_calls(finish: str) -> None:
    text, end = outcome(
        streams(
            piece("Let me see."),
            calls({"index": 0, "id": "c1", "function": {"name": "weather", "arguments": ""}}),
            calls({"index": 0, "function": {"arguments": '{"city": '}}),
            calls(
                {"index": 0, "function": {"arguments": '"Rome"}'}},
                {"index": 1, "id": "c2", "function": {"name": "time", "arguments": "{}"}},
            ),
            piece("", finish),
        )
    )
    assert (text, end.stop_reason) == ("Let me see.", StopReason.TOOL_CALLS)
    assert end.tool_calls == (CALL, ToolCall("c2", "time", "{}"))


@pytest.mark.parametrize(
    ("events", "found"),
    [
        # Ollama and llama.cpp: whole calls
        ([calls({"index": 0, "id": "c1", "function": {"name": "weather",
                 "arguments": '{"city": "Rome"}'}})], [CALL]),
        # without an index, the arguments as an object
        ([calls({"id": "c1", "function": {"name": "weather", "arguments": {"city": "Rome"}}})],
         [CALL]),
        # two calls that both have the index 0
        ([calls({"index": 0, "id": "a", "function": {"name": "x", "arguments": "{}"}}),
          calls({"index": 0, "id": "b", "function": {"name": "y"}})],
         [ToolCall("a", "x", "{}"), ToolCall("b", "y", "{}")]),
        # the older form
        ([delta(function_call={"name": "weather", "arguments": ""}),
          delta(function_call={"arguments": "{}"})], [ToolCall("", "weather", "{}")]),
    ],
)  # fmt: skip
def test_tool_calls_as_different_servers_send_them(
    events: Sequence[Any], found: Sequence[ToolCall]
) -> None:
    _, end = outcome(streams(*events, piece("", "stop")))
    assert (end.stop_reason, end.tool_calls) == (StopReason.TOOL_CALLS, tuple(found))


def test_a_tool_call_that_was_cut_short_is_not_one() -> None:
    half = calls({"index": 0, "id": "c1", "function": {"name": "weather", "arguments": '{"ci'}})
    _, end = outcome(streams(half, piece("", "length")))
    assert (end.stop_reason, end.tool_calls) == (StopReason.LENGTH, ())


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", StopReason.END),
        ("STOP", StopReason.END),
        ("eos_token", StopReason.END),
        ("end_turn", StopReason.END),
        ("model_length", StopReason.CONTEXT_FULL),
        ("content_filter", StopReason.CONTENT_FILTER),
        ("SAFETY", StopReason.CONTENT_FILTER),
        ("refusal", StopReason.REFUSAL),
    ],
)
def test_the_words_of_different_servers(finish: str, reason: StopReason) -> None:
    text, end = outcome(says("a", finish=finish))
    assert (text, end.stop_reason, end.matched_stop) == ("a", reason, None)


def test_an_unknown_word_is_passed_on() -> None:
    _, end = outcome(says("a", finish="tired\x1b[2J"))
    assert end.stop_reason is StopReason.CRITERION
    assert end.matched_stop is not None
    assert end.matched_stop.startswith("tired")
    assert "\x1b" not in end.matched_stop


@pytest.mark.parametrize("finish", ["error", "abort", "insufficient_system_resource"])
def test_a_word_for_a_failure_is_an_error(finish: str) -> None:
    with serving(says("Half", finish=finish)) as script:
        text, error = said_until_it_failed(script)
    assert text == "Half"
    assert f"finish_reason is {finish}" in error.message


def failure_of(act: Act) -> ChatlmError:
    with serving(act) as script:
        return said_until_it_failed(script)[1]


def typed_error(handler: Handler, asked: Asked) -> None:
    """An error as an event of its own type, without OpenAI's wrapping."""
    handler.begin()
    handler.raw(b'event: error\ndata: {"message": "CUDA out of memory"}\n\n')
    handler.end()


@pytest.mark.parametrize(
    "act",
    [
        refuses(200, {"error": {"message": "CUDA out of memory"}}),
        streams({"error": "CUDA out of memory"}),
        streams({"choices": [{"index": 0, "error": {"message": "CUDA out of memory"}}]}),
        typed_error,
    ],
    ids=["JSON with status 200", "a text", "of a choice", "typed"],
)
def test_errors_with_status_200_are_quoted(act: Act) -> None:
    assert "CUDA out of memory" in failure_of(act).message


def test_a_whole_reply_instead_of_a_stream_is_an_error() -> None:
    whole = {"choices": [{"message": {"content": "Hello."}, "finish_reason": "stop"}]}
    assert "it is not streamed" in failure_of(refuses(200, whole)).message


@pytest.mark.parametrize(
    "act",
    [
        refuses(400, {"error": {"message": "It was filtered.", "code": "content_filter"}}),
        refuses(400, {"error": {"message": "No.", "type": "data_inspection_failed"}}),
        refuses(403, {"error": {"message": "Your input was flagged", "code": 403}}),
        streams(piece("Half"), {"error": {"message": "No.", "code": "content_filter"}}),
    ],
    ids=["Azure", "Alibaba", "OpenRouter", "in the stream"],
)
def test_a_filtered_message_is_no_wrong_key_and_no_failure(act: Act) -> None:
    error = failure_of(act)
    assert isinstance(error, ContentFiltered)
    assert "content filter" in error.message
    assert error.exit_code == 4


def test_a_prompt_that_is_too_long_stays_one() -> None:
    said = {"error": {"message": "exceeds the context window", "code": "context_length_exceeded"}}
    assert isinstance(failure_of(refuses(400, said)), ContextTooLong)


NOTHING = says()


@pytest.mark.parametrize(
    ("act", "code", "reason", "shown", "why"),
    [
        (REFUSAL, 4, "refusal", "I can't help with that.\n", "refused by the model"),
        (NOTHING, 4, "empty", "", "ended without an answer"),
        (says("\n"), 4, "empty", "", "ended without an answer"),
        (says(finish="tool_calls"), 4, "empty", "", "ended without an answer"),
        (streams(delta(reasoning="Hm."), piece("", "stop")), 4, "empty", "", "without an answer"),
        (says(finish="content_filter"), 4, "content_filter", "", "ended by a content filter"),
        (says("Ha", finish="content_filter"), 4, "content_filter", "Ha\n", "content filter"),
        (streams(calls({"id": "c1", "function": {"name": "weather"}}), piece("", "stop")),
         0, "tool_calls", "", "called tools: weather"),
        (says("##"), 0, "stop_string", "", "ended at a stop string"),
        (says("a", finish="tired"), 0, "criterion", "a\n", "ended by a stopping rule: tired"),
    ],
)  # fmt: skip
def test_ask_never_ends_silently(
    home: Path, act: Act, code: int, reason: str, shown: str, why: str
) -> None:
    with serving(act) as script:
        done = run_chatlm("ask", "-m", script.model, "--stop", "##", "Hi")
        as_json = run_chatlm("ask", "-m", script.model, "--stop", "##", "--json", "Hi")
    assert (done.returncode, as_json.returncode) == (code, code)
    assert done.stdout.strip() == shown.strip()
    assert why in done.stderr
    assert json.loads(as_json.stdout)["stop_reason"] == reason
    with Store(home / "chats.db") as store:
        reply = store.conversation(1).turns[0].reply
    assert reply is not None
    assert reply.stop_reason == reason


def test_ask_names_the_tools_and_prints_the_calls_as_json() -> None:
    called = calls({"id": "c1", "function": {"name": "weather", "arguments": CALL.arguments}})
    with serving(streams(called, piece("", "tool_calls"))) as script:
        done = run_chatlm("ask", "-m", script.model, "--json", "Hi")
    assert json.loads(done.stdout)["tool_calls"] == [CALL.to_dict()]


def test_a_filtered_message_is_stored_with_its_reason(home: Path) -> None:
    with serving(refuses(400, {"error": {"message": "No.", "code": "content_filter"}})) as script:
        done = run_chatlm("ask", "-m", script.model, "Hi")
    assert done.returncode == 4
    assert "Server message: No." in done.stderr
    with Store(home / "chats.db") as store:
        reply = store.conversation(1).turns[0].reply
    assert reply is not None
    assert reply.stop_reason is StopReason.CONTENT_FILTER
    assert "Server message: No." in (reply.error or "")
    assert not reply.can_continue


def test_a_chat_goes_on_after_a_tool_call_that_was_not_run(home: Path) -> None:
    called = calls({"id": "c1", "function": {"name": "weather", "arguments": "{}"}})
    with serving(streams(called, piece("", "stop")), says("Fine.")) as script:
        assert run_chatlm("ask", "-m", script.model, "Hi").returncode == 0
        done = run_chatlm("ask", "-m", script.model, "--chat", "1", "And now?")
        messages = script.asked[1].body["messages"]
    assert (done.returncode, done.stdout) == (0, "Fine.\n")
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert "Tool call, not run: weather {}" in messages[1]["content"]


def test_an_incomplete_stream_is_never_a_success() -> None:
    for act in (breaks_off(), streams(), streams(piece("a")), breaks_off(piece("a"))):
        with serving(act) as script:
            assert run_chatlm("ask", "-m", script.model, "Hi").returncode == 1


def test_a_contestant_without_an_answer() -> None:
    filtered = refuses(400, {"error": {"message": "No.", "code": "content_filter"}})
    with serving(NOTHING, REFUSAL, filtered) as script:
        config = load_config(model=script.model)
        with side_chats(config, lambda words: None) as chats:
            replies = []
            for number in range(3):
                chat = chats.begin(Setup())
                seat = Seat(Contestant(number + 1, "one", Setup()), chat)
                ((_, reply),) = generate_answers([AnswerRequest(seat, "Hi", 0)])
                replies.append(reply)
    reasons = [reply.stop_reason for reply in replies]
    assert reasons == [StopReason.EMPTY, StopReason.REFUSAL, StopReason.ERROR]
    assert [reply.has_answer for reply in replies] == [False, True, False]
    assert replies[0].display_text == "(ended without an answer)"
    assert "Server message: No." in replies[2].display_text


def test_check_reports_an_empty_reply() -> None:
    with serving(NOTHING) as script:
        done = run_chatlm("openai", "check", script.url)
    assert done.returncode == 4
    assert "(ended without an answer)" in done.stdout
