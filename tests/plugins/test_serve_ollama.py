"""Ollama's protocol over `chatlm serve`, with Ollama's own client and with raw requests."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import chatlm
from chatlm import Reasoning, Text
from chatlm.engines.scripted import ScriptedEngine
from chatlm_serve.errors import ApiError
from chatlm_serve.generation_request import ClientConversation, TextPrompts
from chatlm_serve.protocols.ollama_chat import parse_chat_request, parse_generate_request
from chatlm_serve.protocols.ollama_fields import parse_keep_alive, parse_options
from tests.models import DEFAULT
from tests.plugins.serve import MODEL, Answer, Caller, Echo, send, serving
from tests.waiting import wait_until

ollama = pytest.importorskip("ollama", reason="needs the client: pip install ollama")

USER = {"role": "user", "content": "hi there"}


def post(address: str, path: str, body: Any) -> Answer:
    headers = {"Content-Type": "application/json"}
    return send(address, path, json.dumps(body).encode(), method="POST", headers=headers)


def refusal_of(parse: Any, **fields: Any) -> str:
    with pytest.raises(ApiError) as caught:
        parse(fields)
    assert caught.value.status == 400
    return caught.value.message


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def address(echo: Echo, home: Path) -> Iterator[str]:
    with serving(echo) as address:
        yield address


@pytest.fixture
def client(address: str) -> Any:
    return ollama.Client(host=address)


def test_a_chat_whole_and_streamed(client: Any, echo: Echo) -> None:
    options = {"temperature": 0, "num_predict": 5, "num_ctx": 4096, "repeat_penalty": 1.1}
    whole = client.chat(MODEL, [USER], options=options)
    assert (whole.message.content, whole.done, whole.done_reason) == ("HI THERE", True, "stop")
    assert whole.eval_count == 2
    assert whole.total_duration > 0
    sampling = echo.requests[-1].sampling
    assert (sampling.temperature, sampling.repetition_penalty) == (0, 1.1)
    assert echo.requests[-1].max_new_tokens == 5
    parts = list(client.chat(MODEL, [USER], stream=True))
    assert "".join(part.message.content for part in parts) == "HI THERE"
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    cut = client.chat(MODEL, [USER], options={"num_predict": 1})
    assert (cut.message.content, cut.done_reason) == ("HI", "length")


def test_a_prompt_with_a_system_prompt(client: Any, echo: Echo) -> None:
    whole = client.generate(MODEL, "good day", system="Be loud.")
    assert (whole.response, whole.done_reason) == ("GOOD DAY", "stop")
    assert [m.text for m in echo.requests[-1].messages] == ["Be loud.", "good day"]
    parts = client.generate(MODEL, "good day", stream=True)
    assert "".join(part.response for part in parts) == "GOOD DAY"


def test_tools_and_their_results(home: Path) -> None:
    def size(of: int) -> str:
        """Return the size.

        Args:
            of: the number.
        """
        return str(of)

    engine = Caller()
    with serving(engine) as address:
        client = ollama.Client(host=address)
        called = client.chat(MODEL, [USER], tools=[size])
        (call,) = called.message.tool_calls
        assert (call.function.name, call.function.arguments) == ("size", {"of": 1})
        (tool,) = engine.requests[-1].tools
        assert (tool.name, tool.description) == ("size", "Return the size.")
        messages = [USER, called.message, {"role": "tool", "tool_name": "size", "content": "7"}]
        answered = client.chat(MODEL, messages, tools=[size])
        assert answered.message.content == "7"
        streamed = list(client.chat(MODEL, [USER], tools=[size], stream=True))
        assert [c.function.name for p in streamed for c in p.message.tool_calls or ()] == ["size"]
        assert streamed[-1].done


def test_results_find_their_calls_by_name() -> None:
    calls: list[dict[str, Any]] = [
        {"function": {"name": name, "arguments": {}}} for name in ("one", "two")
    ]
    results = [{"role": "tool", "tool_name": name, "content": name} for name in ("two", "one")]
    messages = [USER, {"role": "assistant", "content": "", "tool_calls": calls}, *results]
    request, _ = parse_chat_request({"model": "m", "messages": messages})
    assert isinstance(request.conversation, ClientConversation)
    (step,) = request.conversation.turn.reply
    assert [(part.call_id, part.name, part.text) for part in step.parts[2:]] == [  # type: ignore[union-attr]
        ("call_1_1", "two", "two"),
        ("call_1_0", "one", "one"),
    ]
    stray = {"role": "tool", "tool_name": "three", "content": "x"}
    assert "does not follow" in refusal_of(parse_chat_request, model="m", messages=[USER, stray])


def test_thoughts(home: Path) -> None:
    engine = ScriptedEngine(
        (Reasoning("Let me see."), Text("Four.")), thinks=True, thinking_levels=("off", "low")
    )
    with serving(engine) as address:
        reply = ollama.Client(host=address).chat(MODEL, [USER], think="low")
        assert (reply.message.thinking, reply.message.content) == ("Let me see.", "Four.")
        assert engine.requests[-1].sampling.thinking == "low"
        problem = post(address, "/api/chat", {"model": MODEL, "messages": [USER], "think": "high"})
        assert problem.status == 400
        assert problem.json["error"].startswith("think:")


def test_formats() -> None:
    def schema_of(value: Any) -> Any:
        body = {"model": "m", "messages": [USER], "format": value}
        return json.loads(parse_chat_request(body)[0].sampling.schema or "null")

    assert schema_of("json") == {"type": "object"}
    assert schema_of({"type": "integer"}) == {"type": "integer"}
    assert schema_of("") is schema_of(None) is None
    for wrong in ("xml", 3, {"type": "nothing"}):
        problem = refusal_of(parse_chat_request, model="m", messages=[USER], format=wrong)
        assert problem.startswith("format")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": "x"}, "messages"),
        ({"messages": [3]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [USER | {"images": ["AAAA"]}]}, "messages[0].images"),
        ({"messages": [USER | {"colour": "red"}]}, "messages[0].colour"),
        ({"messages": [USER], "colour": "red"}, "colour"),
        ({"messages": [USER], "options": {"colour": 1}}, "options.colour"),
        ({"messages": [USER], "options": {"mirostat": 2}}, "options.mirostat"),
        ({"messages": [USER], "options": {"temperature": 9}}, "options.temperature"),
        ({"messages": [USER], "options": {"repeat_penalty": 1.1, "repeat_last_n": 4}}, "options.r"),
        ({"messages": [USER], "options": {"num_predict": -3}}, "options.num_predict"),
        ({"messages": [USER], "think": "much"}, "think"),
        ({"messages": [USER], "keep_alive": "soon"}, "keep_alive"),
        ({"messages": [USER], "logprobs": True, "top_logprobs": 99}, "top_logprobs"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], named: str) -> None:
    assert refusal_of(parse_chat_request, model="m", **fields).startswith(named)


@pytest.mark.parametrize("name", ["template", "context", "images"])
def test_what_a_prompt_cannot_have_is_refused(name: str) -> None:
    value: Any = {"context": [1], "images": ["A"]}.get(name, "x")
    problem = refusal_of(parse_generate_request, model="m", prompt="x", **{name: value})
    assert problem.startswith(f"{name}: is not supported")


def test_a_raw_prompt_is_continued_and_a_gap_is_filled() -> None:
    raw, _ = parse_generate_request({"model": "m", "prompt": "x", "raw": True})
    assert raw.conversation == TextPrompts(("x",))
    gap, _ = parse_generate_request({"model": "m", "prompt": "f(", "suffix": ")", "raw": False})
    assert gap.conversation == TextPrompts(("f(",), ")")
    for name, value in (("system", "Be brief."), ("think", True)):
        for way in ({"raw": True}, {"suffix": ")"}):
            fields = {"prompt": "x", name: value, **way}
            assert refusal_of(parse_generate_request, model="m", **fields).startswith(name)


def test_a_gap_reaches_the_engine() -> None:
    engine = Echo()
    engine.info = dataclasses.replace(engine.info, raw_prompts=frozenset({"text", "gap"}))
    with serving(engine) as address:
        client = ollama.Client(host=address)
        client.generate(model=MODEL, prompt="def f(", suffix="): pass")
        (request,) = engine.requests
        assert request.raw
        assert [message.text for message in request.messages] == ["def f(", "): pass"]
        assert "fill" not in client.generate(model=MODEL, prompt="a", raw=True).response


def test_options_without_effect_are_accepted() -> None:
    options = {"num_gpu": 1, "mirostat": 0, "mirostat_tau": 5.0, "tfs_z": 1, "repeat_last_n": 64}
    assert parse_options({"options": options}) == {}
    assert parse_options({"options": {"num_predict": -1}})["max_tokens"] > 10**5


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("5m", 300.0), ("1h30m", 5400.0), ("250ms", 0.25), (0, 0.0), ("0", 0.0), (-1, math.inf),
     ("-1m", math.inf), (30, 30.0), (None, None),
     (10**400, 1e9), (-(10**400), math.inf)],
)  # fmt: skip
def test_how_long_a_model_is_kept(value: Any, seconds: float | None) -> None:
    assert parse_keep_alive({"keep_alive": value}) == seconds


def test_models_are_listed_loaded_and_freed(chat_home: Path) -> None:
    with serving(Echo()) as address:
        client = ollama.Client(host=address)
        listed = {model.model: model for model in client.list().models}
        assert {MODEL, DEFAULT} <= listed.keys()
        assert listed[DEFAULT].details.parameter_size == "134.5M"
        assert listed[DEFAULT].size > 10**7
        shown = client.show(f"{DEFAULT}:latest")
        assert shown.modelinfo["general.architecture"] == "llama"
        assert "completion" in shown.capabilities
        assert [model.model for model in client.ps().models] == [MODEL]
        with pytest.raises(ollama.ResponseError, match="There is no model called 'nobody'"):
            client.chat("nobody", [USER])
        with pytest.raises(ollama.ResponseError, match="does not exist"):
            client.show("nobody")
        loaded = client.generate(MODEL, "", keep_alive=-1)
        assert (loaded.done, loaded.done_reason) == (True, "load")
        freed = client.chat(MODEL, [], keep_alive=0)
        assert freed.done_reason == "unload"
        wait_until(lambda: not client.ps().models)
        assert client.chat(MODEL, [USER]).message.content == "HI THERE"
        pulled = post(address, "/api/pull", {"model": "qwen3:4b"})
        assert "chatlm pull qwen3:4b" in pulled.json["error"]


def test_the_rest_of_the_protocol(address: str) -> None:
    assert send(address, "/api/version").json == {"version": chatlm.__version__}
    assert send(address, "/api/nothing").json["error"].startswith("Not found")
    assert post(address, "/api/chat", []).json == {
        "error": "The request's body must be a JSON object."
    }
    assert post(address, "/api/embed", {"model": "all-minilm", "input": ["a"]}).status == 404


def test_an_error_in_a_stream_is_its_last_line(home: Path) -> None:
    with serving(ScriptedEngine(chatlm.EngineError("it broke"))) as address:
        body = {"model": MODEL, "messages": [USER]}
        last = post(address, "/api/chat", body).body.decode().splitlines()[-1]
        assert json.loads(last) == {"error": "it broke"}


def test_embeddings(rag_home: Path) -> None:
    with serving(Echo()) as address:
        client = ollama.Client(host=address)
        both = client.embed("all-minilm", ["cat", "dog"])
        assert [len(vector) for vector in both.embeddings] == [384, 384]
        one = client.embeddings("all-minilm-l6-v2", "cat").embedding
        assert one == pytest.approx(both.embeddings[0], abs=1e-4)
        for given, said in (("x " * 400_000, "800,000 characters"), ([[7] * 300], "300 tokens")):
            refused = post(address, "/v1/embeddings", {"model": "all-minilm-l6-v2", "input": given})
            assert refused.status == 400
            assert said in refused.json["error"]["message"]
        assert client.embed("all-minilm", "").embeddings == []
