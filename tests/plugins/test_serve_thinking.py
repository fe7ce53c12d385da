"""Clients of `chatlm serve` switch thinking, and get thoughts apart from the answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import openai
import pytest

from chatlm import Reasoning, Sampling, Text
from chatlm.chat.session import ChatSession
from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from chatlm_openai.engine import open_engine
from chatlm_serve.errors import ApiError
from chatlm_serve.protocols.openai_chat import parse_chat_request
from tests.plugins.serve import MODEL, serving
from tests.plugins.test_serve_api import ask, client_of

USER = {"role": "user", "content": "Hi"}
REPLY = (Reasoning("Two and two."), Text("It is 4."))


def thinking_of(**fields: Any) -> tuple[str, str | None]:
    params, _ = parse_chat_request({"model": "m", "messages": [USER]} | fields)
    return params.thinking_field, params.sampling.thinking


@pytest.mark.parametrize(
    ("effort", "level"),
    [("none", "off"), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high")],
)
def test_reasoning_effort_is_the_level(effort: str, level: str) -> None:
    assert thinking_of(reasoning_effort=effort) == ("reasoning_effort", level)
    kwargs = {"reasoning_effort": effort}
    expected = ("chat_template_kwargs.reasoning_effort", level)
    assert thinking_of(chat_template_kwargs=kwargs) == expected


@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
def test_the_switch_of_vllm_and_llama_cpp(name: str) -> None:
    field = f"chat_template_kwargs.{name}"
    assert thinking_of(chat_template_kwargs={name: False}) == (field, "off")
    assert thinking_of(chat_template_kwargs={name: True}) == (field, "medium")
    assert thinking_of(chat_template_kwargs={name: None}) == ("", None)


def test_the_effort_goes_before_the_switch() -> None:
    kwargs = {"enable_thinking": True}
    assert thinking_of(chat_template_kwargs=kwargs, reasoning_effort="low")[1] == "low"
    assert thinking_of(thinking="high") == ("thinking", "high")
    assert thinking_of() == ("", None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"reasoning_effort": 3}, "reasoning_effort"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        (
            {"chat_template_kwargs": {"enable_thinking": "no"}},
            "chat_template_kwargs.enable_thinking",
        ),
        ({"chat_template_kwargs": {"date": "x"}}, "chat_template_kwargs.date"),
        (
            {"chat_template_kwargs": {"reasoning_effort": "x"}},
            "chat_template_kwargs.reasoning_effort",
        ),
        (
            {"messages": [USER | {"reasoning_content": "I am no model."}]},
            "messages[0].reasoning_content",
        ),
    ],
)
def test_what_is_not_understood_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        thinking_of(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(thinks=True, thinking_levels=["off", "low"])


@pytest.fixture
def client(engine: ScriptedEngine) -> Iterator[openai.OpenAI]:
    with serving(engine) as address:
        yield client_of(address)


def test_a_whole_reply_has_both(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.queue(REPLY)
    reply = ask(client, "2+2?", reasoning_effort="low")
    message = reply.choices[0].message
    assert (message.reasoning_content, message.content) == ("Two and two.", "It is 4.")
    assert reply.usage.completion_tokens_details.reasoning_tokens == 3
    assert engine.requests[-1].sampling.thinking == "low"
    engine.queue("It is 4.")
    plain = ask(client, "2+2?").choices[0].message
    assert not hasattr(plain, "reasoning_content")


def test_a_stream_has_both_in_order(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.queue(REPLY)
    options = {"include_usage": True}
    pieces = list(ask(client, "2+2?", stream=True, stream_options=options))
    deltas = [piece.choices[0].delta for piece in pieces if piece.choices]
    thoughts = [getattr(delta, "reasoning_content", None) for delta in deltas]
    assert thoughts == [None, "Two", " and", " two.", *[None] * 4]
    assert [delta.content for delta in deltas] == ["", None, None, None, "It", " is", " 4.", None]
    assert pieces[-1].usage.completion_tokens_details.reasoning_tokens == 3


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_that_a_client_sends_back_are_left_to_the_template(
    client: openai.OpenAI, engine: ScriptedEngine, name: str
) -> None:
    engine.queue("Yes.")
    messages: Any = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4", name: "Two and two."},
        {"role": "user", "content": "Sure?"},
    ]
    client.chat.completions.create(model=MODEL, messages=messages)
    sent = engine.requests[-1].messages
    assert [message.text for message in sent] == ["2+2?", "4", "Sure?"]
    assert sent[1].parts == (Reasoning("Two and two."), Text("4"))
    assert sum("Two" in token.text for token in engine.preview(engine.requests[-1]).tokens) == 0


@pytest.mark.parametrize(
    ("thinks", "levels", "fields", "param"),
    [
        (False, [], {"reasoning_effort": "high"}, "reasoning_effort"),
        (
            False,
            [],
            {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}},
            "chat_template_kwargs.enable_thinking",
        ),
        (True, [], {"reasoning_effort": "none"}, "reasoning_effort"),
        (True, ["low"], {"extra_body": {"thinking": "off"}}, "thinking"),
    ],
    ids=["no-thoughts", "switched-on", "always-thinks", "no-off"],
)
def test_a_model_that_cannot_follow_refuses(
    thinks: bool, levels: list[Any], fields: dict[str, Any], param: str
) -> None:
    engine = ScriptedEngine("4", thinks=thinks, thinking_levels=levels)
    with serving(engine) as address, pytest.raises(openai.BadRequestError) as caught:
        ask(client_of(address), "2+2?", **fields)
    assert (caught.value.param, caught.value.code) == (param, "unsupported_value")
    assert engine.requests == []


@pytest.mark.parametrize(
    ("thinks", "enabled", "level"), [(False, False, "off"), (True, True, "auto")]
)
def test_a_switch_to_what_a_model_does_anyway_is_no_error(
    thinks: bool, enabled: bool, level: str
) -> None:
    engine = ScriptedEngine("4", thinks=thinks)
    with serving(engine) as address:
        kwargs = {"chat_template_kwargs": {"enable_thinking": enabled}}
        assert ask(client_of(address), "2+2?", extra_body=kwargs).choices[0].message.content == "4"
    assert engine.requests[-1].sampling.thinking == level


def test_max_tokens_counts_thoughts_as_the_protocol_does(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    engine.queue(REPLY)
    ask(client, "2+2?", max_tokens=5)
    assert engine.requests[-1].max_new_tokens == 5


@pytest.mark.usefixtures("home")
def test_chatlm_is_a_client_that_gets_thoughts_and_sends_none_back(engine: ScriptedEngine) -> None:
    engine.queue(REPLY, REPLY)
    with (
        serving(engine) as address,
        closing(open_engine(f"{MODEL}@{address}/v1")) as remote,
        Store(None) as store,
    ):
        session = ChatSession(store, lambda: remote, sampling=Sampling(thinking="low"))
        list(session.send("2+2?"))
        list(session.send("Sure?"))
        (reply, _) = (turn.reply for turn in store.conversation(1).turns)
    assert reply is not None
    assert (reply.reasoning, reply.text) == ("Two and two.", "It is 4.")
    assert reply.usage.reasoning_tokens == 3
    second = engine.requests[-1]
    assert second.sampling.thinking == "low"
    assert [m.parts for m in second.messages] == [
        (Text("2+2?"),), (Text("It is 4."),), (Text("Sure?"),),
    ]  # fmt: skip
