"""Files of requests: their lines, their answers, and what a broken end leaves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatlm import (
    Delta,
    EngineEvent,
    Finished,
    Request,
    StopReason,
    ToolCall,
    ToolResult,
    UsageError,
)
from chatlm.chat.answer_file import AnswerFile
from chatlm.chat.batch_answers import BatchRun, CommonSettings
from chatlm.chat.request_lines import parse_request_line, read_requests
from chatlm.chat.side_chats import InMemorySideChats
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import ChatlmError, EngineError
from chatlm.plugin_host.host import PluginHost
from chatlm.types.sampling import Sampling

COMMON = CommonSettings("scripted", model_fixed=True, sampling=Sampling(seed=7))


class Echo(ScriptedEngine):
    """Answers with the last message in capitals; fails where the message says so.

    It calls the first tool that it is offered, unless the message is its result.
    """

    def __init__(self) -> None:
        super().__init__()
        accepts = frozenset({"text", "tool_call", "tool_result"})
        self.info = dataclasses.replace(self.info, accepts=accepts)

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        last = request.messages[-1]
        text = last.text or " ".join(getattr(part, "text", "") for part in last.parts)
        self.queue(EngineError("it broke") if text == "fail" else text.upper())
        calls = request.tools and request.tool_choice != "none" and last.role != "tool"
        for event in super().stream(request):
            if calls and isinstance(event, Finished):
                call = ToolCall("call1", request.tools[0].name, '{"of": 1}')
                yield Finished(StopReason.TOOL_CALLS, event.usage, None, (call,))
            elif not calls or not isinstance(event, Delta):
                yield event


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def answer(
    requests: Path, output: Path, common: CommonSettings = COMMON, stop_after: int = 100
) -> tuple[Echo, set[str | int]]:
    """Answer a file as `chatlm ask` does; returns the engine and what was answered before."""
    engine = Echo()
    chats = InMemorySideChats(Config(), PluginHost(), lambda m, r: engine, lambda w: None)
    with chats, AnswerFile(output) as file:
        parsed = read_requests(requests)
        before = file.resume({each.id: common.digest(each) for each in parsed})
        run = BatchRun(chats, common, 8)
        waiting = [each for each in parsed if each.id not in before]
        with closing(run.answers(waiting)) as results:
            for number, each in enumerate(filter(None, results), 1):
                file.add(each)
                if number == stop_after:
                    break
    return engine, before


def read(output: Path) -> dict[Any, dict[str, Any]]:
    answers = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    by_id = {each.get("custom_id", each["id"]): each for each in answers}
    assert len(by_id) == len(answers), "an answer is there twice"
    return by_id


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[1]", "must be a JSON object"),
        ('{"id": 1', "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"id": true, "prompt": "x"}', "id must be"),
        ('{"id": 1}', "either prompt or messages"),
        ('{"prompt": "x", "messages": []}', "either prompt or messages"),
        ('{"prompt": " "}', "empty"),
        ('{"prompt": "x", "temprature": 1}', "temprature is not a field"),
        ('{"prompt": "x", "temperature": 9}', "temperature"),
        ('{"prompt": "x", "schema": {"type": "nothing"}}', "schema"),
        ('{"prompt": "x", "logprobs": 99}', "logprobs must be 0 to 20"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "no user message"),
        ('{"messages": [{"role": "user", "content": [{"type": "audio"}]}]}', "not supported"),
        ('{"custom_id": "a", "method": "POST", "url": "/v1/x", "body": {}}', "only requests with"),
        ('{"custom_id": "a", "method": "GET", "url": 3, "body": {}}', "url must be a text"),
    ],
)
def test_a_wrong_line_says_what_is_wrong(line: str, problem: str) -> None:
    parsed = parse_request_line(line, 4)
    assert parsed.problem is not None
    assert problem in parsed.problem.message


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"n": 2}, "body.n"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"stream": True}, "body.stream"),
        ({"sede": 1}, "body.sede"),
        ({"top_logprobs": 3}, "requires logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
    ],
)
def test_what_openais_form_has_beyond_this_is_refused_by_name(
    body: dict[str, Any], problem: str
) -> None:
    whole = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": whole}
    parsed = parse_request_line(json.dumps(line), 1)
    assert parsed.problem is not None
    assert problem in parsed.problem.message


def test_both_forms_become_the_same_request() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One."},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three."},
    ]
    own = {"id": "a", "messages": messages, "seed": 3, "max_tokens": 9, "model": "m"}
    body = {"model": "m", "messages": messages, "seed": 3, "max_completion_tokens": 9, "user": "u"}
    openai = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    first, second = (parse_request_line(json.dumps(each), 1) for each in (own, openai))
    assert first.problem is second.problem is None
    for parsed in (first, second):
        assert parsed.system == "Be brief."
        ((message, steps),) = parsed.history
        assert (message, [step.text for step in steps]) == ("One.", ["Two."])
        assert parsed.question == "Three."
        assert parsed.sampling == Sampling(seed=3, max_tokens=9)
        assert (parsed.id, parsed.model) == ("a", "m")
    assert (first.max_new_tokens, second.max_new_tokens) == (None, 9)


def test_failures_leave_the_others_alone_and_are_asked_again(tmp_path: Path) -> None:
    requests = write(
        tmp_path / "in.jsonl",
        {"id": "a", "prompt": "one"},
        {"id": "b", "prompt": "fail"},
        "nonsense",
        "",
        {"prompt": "two"},
    )
    output = tmp_path / "out.jsonl"
    answer(requests, output)
    answers = read(output)
    assert answers["a"]["text"] == "ONE"
    assert answers[5]["text"] == "TWO"
    assert answers["a"]["seed"] == 7
    assert answers["b"]["error"]["message"] == "line 2: it broke"
    assert "not JSON" in answers[3]["error"]["message"]

    engine, before = answer(requests, output)
    assert before == {"a", 5}
    assert [each.messages[-1].text for each in engine.requests] == ["fail"]
    assert read(output).keys() == answers.keys()


@pytest.mark.parametrize("cut", [1, 30, 100_000])
def test_a_cut_line_is_answered_again(tmp_path: Path, cut: int) -> None:
    requests = write(tmp_path / "in.jsonl", *({"id": n, "prompt": f"say {n}"} for n in range(5)))
    output = tmp_path / "out.jsonl"
    answer(requests, output, stop_after=3)
    whole = output.read_bytes()
    start = whole.rstrip(b"\n").rfind(b"\n") + 1
    output.write_bytes(whole[: max(start, len(whole) - cut)])
    _, before = answer(requests, output)
    assert before == {0, 1}
    assert {each: values["text"] for each, values in read(output).items()} == {
        n: f"SAY {n}" for n in range(5)
    }


def test_answers_of_other_requests_or_settings_are_never_mixed(tmp_path: Path) -> None:
    requests = write(tmp_path / "in.jsonl", {"id": 1, "prompt": "one"}, {"id": 2, "prompt": "two"})
    output = tmp_path / "out.jsonl"
    answer(requests, output)
    whole = output.read_bytes()
    write(requests, {"id": 1, "prompt": "ONE"}, {"id": 2, "prompt": "two"})
    with pytest.raises(UsageError, match="has changed since"):
        answer(requests, output)
    write(requests, {"id": 1, "prompt": "one"})
    with pytest.raises(UsageError, match="not among the requests"):
        answer(requests, output)
    write(requests, {"id": 1, "prompt": "one"}, {"id": 2, "prompt": "two"})
    with pytest.raises(UsageError, match="other settings"):
        answer(requests, output, CommonSettings("other", model_fixed=True))
    assert output.read_bytes() == whole


def test_a_file_of_something_else_is_not_touched(tmp_path: Path) -> None:
    requests = write(tmp_path / "in.jsonl", {"id": 1, "prompt": "one"})
    output = write(tmp_path / "notes.txt", "my notes")
    with pytest.raises(UsageError, match="is not a file of answers"):
        answer(requests, output)
    assert output.read_text() == "my notes\n"
    with pytest.raises(ChatlmError, match="cannot be written"):
        answer(requests, tmp_path / "nowhere" / "out.jsonl")
    with AnswerFile(tmp_path / "out.jsonl"), pytest.raises(UsageError, match="Another chatlm"):
        answer(requests, tmp_path / "out.jsonl")


def test_ids_must_differ(tmp_path: Path) -> None:
    requests = write(tmp_path / "in.jsonl", {"prompt": "one"}, {"id": 1, "prompt": "two"})
    with pytest.raises(UsageError, match=r"Lines 1 and 2 .* have the same id, 1"):
        read_requests(requests)
    with pytest.raises(UsageError, match="has no requests"):
        read_requests(write(tmp_path / "empty.jsonl", ""))


def test_openais_form_is_answered_in_openais_form(tmp_path: Path) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi you"}], "max_tokens": 1}
    line = {"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": body}
    output = tmp_path / "out.jsonl"
    answer(write(tmp_path / "in.jsonl", line), output)
    result = read(output)["x"]
    assert result["error"] is None
    assert result["response"]["status_code"] == 200
    completion = result["response"]["body"]
    assert completion["choices"][0]["message"]["content"] == "HI"
    assert completion["choices"][0]["finish_reason"] == "length"
    assert completion["usage"]["completion_tokens"] == 1


def test_messages_that_do_not_fit_are_refused_not_shortened(tmp_path: Path) -> None:
    messages = [
        {"role": role, "content": "word " * 900}
        for role in ("user", "assistant", "user", "assistant", "user", "assistant")
    ]
    messages.append({"role": "user", "content": "now"})
    output = tmp_path / "out.jsonl"
    answer(write(tmp_path / "in.jsonl", {"id": 1, "messages": messages}), output)
    assert "do not fit the context" in read(output)[1]["error"]["message"]


SIZE = {
    "type": "function",
    "function": {
        "name": "size",
        "description": "Returns it.",
        "parameters": {"type": "object", "properties": {"of": {"type": "integer"}}},
    },
}
CALL = {"id": "call1", "type": "function", "function": {"name": "size", "arguments": '{"of": 1}'}}
CALLED = [
    {"role": "user", "content": "How big?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
]
RESULT = {"role": "tool", "tool_call_id": "call1", "content": "seven"}


@pytest.mark.parametrize("in_openais_form", [False, True])
def test_tools_are_called_and_their_results_answered(tmp_path: Path, in_openais_form: bool) -> None:
    def line(name: str, messages: Any, **more: Any) -> dict[str, Any]:
        body = {"messages": messages, "tools": [SIZE], **more}
        if not in_openais_form:
            return {"id": name, **body}
        url = "/v1/chat/completions"
        return {"custom_id": name, "method": "POST", "url": url, "body": {"model": "m", **body}}

    requests = write(
        tmp_path / "in.jsonl",
        line("call", CALLED[:1], tool_choice="required", parallel_tool_calls=False),
        line("none", CALLED[:1], tool_choice="none"),
        line("again", [*CALLED, RESULT]),
        line("later", [*CALLED, RESULT, {"role": "assistant", "content": "7."}, CALLED[0]],
             tool_choice={"type": "function", "function": {"name": "size"}}),
    )  # fmt: skip
    engine, _ = answer(requests, tmp_path / "out.jsonl")
    answers = read(tmp_path / "out.jsonl")
    first, _, third, last = engine.requests
    assert [tool.to_dict() for tool in first.tools] == [SIZE]
    assert (first.tool_choice, first.parallel_tool_calls) == ("required", False)
    assert third.messages[-1].parts == (ToolResult("call1", "size", "seven"),)
    assert last.tool_choice == "size"
    assert [message.role for message in last.messages] == [
        "user", "assistant", "tool", "assistant", "user",
    ]  # fmt: skip
    if in_openais_form:
        choices = {name: each["response"]["body"]["choices"][0] for name, each in answers.items()}
        assert choices["call"]["message"]["tool_calls"] == [CALL]
        assert choices["call"]["message"]["content"] is None
        assert choices["call"]["finish_reason"] == "tool_calls"
        assert choices["none"]["message"]["content"] == "HOW BIG?"
        assert choices["again"]["message"]["content"] == "SEVEN"
        assert "tool_calls" not in choices["again"]["message"]
    else:
        assert answers["call"]["tool_calls"] == [
            {"type": "tool_call", "id": "call1", "name": "size", "arguments": '{"of": 1}'}
        ]
        assert answers["call"]["stop_reason"] == "tool_calls"
        assert answers["none"]["text"] == "HOW BIG?"
        assert answers["again"]["text"] == "SEVEN"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"tools": {}}, "tools must be a list"),
        ({"tools": [SIZE, SIZE]}, "two tools have the same name"),
        ({"tools": [{**SIZE, "type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a", "x": 1}}]}, "function.x"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "needs a name"),
        (
            {"tools": [{"type": "function", "function": {
                "name": "a", "parameters": {"type": "nothing"}}}]},
            "tools[0].function.parameters",
        ),
        ({"tool_choice": "required"}, "requires tools"),
        ({"tools": [SIZE], "tool_choice": "some"}, "tool_choice must be"),
        (
            {"tools": [SIZE], "tool_choice": {"type": "function", "function": {"name": "b"}}},
            "no tool is called b",
        ),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"messages": CALLED}, "result of the tool call 'call1' is missing"),
        ({"messages": [CALLED[0], RESULT]}, "tool messages are not supported"),
    ],
)  # fmt: skip
def test_wrong_tools_are_named(fields: dict[str, Any], problem: str) -> None:
    line = {"messages": CALLED[:1], **fields}
    parsed = parse_request_line(json.dumps(line), 1)
    assert parsed.problem is not None
    assert problem in parsed.problem.message
