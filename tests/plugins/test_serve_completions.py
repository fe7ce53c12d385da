"""OpenAI's completions of texts, through the official client."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from chatlm import Delta, Finished, StopReason, TokenLogprob, Usage
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm_serve.errors import ApiError
from chatlm_serve.protocols.openai_completions import parse_completion_request
from tests.plugins.serve import MODEL, Echo, serving
from tests.plugins.test_serve_api import Plugin, client_of


def text_engine() -> Echo:
    engine = Echo()
    engine.info = dataclasses.replace(engine.info, raw_prompts=frozenset({"text", "gap"}))
    return engine


@pytest.fixture
def engine() -> Echo:
    return text_engine()


@pytest.fixture
def client(engine: Echo) -> Iterator[openai.OpenAI]:
    with serving(engine, plugins=PluginHost([("own", Plugin())])) as address:
        yield client_of(address)


def test_a_text_is_continued(client: openai.OpenAI, engine: Echo) -> None:
    reply = client.completions.create(model=MODEL, prompt="one two", temperature=0, stop=["x"])
    (choice,) = reply.choices
    assert (choice.text, choice.finish_reason) == ("ONE TWO", "stop")
    assert (reply.object, reply.model) == ("text_completion", MODEL)
    request = engine.requests[-1]
    assert request.raw
    assert request.max_new_tokens == 16
    assert [message.text for message in request.messages] == ["one two"]


def test_several_texts_are_continued_in_order(client: openai.OpenAI, engine: Echo) -> None:
    reply = client.completions.create(model=MODEL, prompt=["a", "b"], n=2, echo=True, seed=3)
    assert [choice.text for choice in reply.choices] == ["aA", "aA", "bB", "bB"]
    assert sorted(request.sampling.seed or 0 for request in engine.requests) == [3, 3, 4, 4]
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 4
    pieces = list(
        client.completions.create(
            model=MODEL,
            prompt=["a", "b"],
            echo=True,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    for number, text in enumerate(["aA", "bB"]):
        own = [p.choices[0] for p in pieces if p.choices and p.choices[0].index == number]
        assert "".join(choice.text for choice in own) == text
        assert own[-1].finish_reason == "stop"
    assert pieces[-1].usage == with_tokens(reply.usage, 2)


def with_tokens(usage: Any, tokens: int) -> Any:
    """The usage with so many new tokens."""
    total = usage.prompt_tokens + tokens
    return usage.model_copy(update={"completion_tokens": tokens, "total_tokens": total})


def test_a_gap_is_filled(client: openai.OpenAI, engine: Echo) -> None:
    client.completions.create(model=MODEL, prompt="def f(", suffix="):\n  pass")
    assert [message.text for message in engine.requests[-1].messages] == ["def f(", "):\n  pass"]


def test_a_model_without_tokens_for_gaps_says_so() -> None:
    engine = Echo()
    engine.info = dataclasses.replace(engine.info, raw_prompts=frozenset({"text"}))
    with serving(engine) as address, pytest.raises(openai.BadRequestError) as caught:
        client_of(address).completions.create(model=MODEL, prompt="a", suffix="b")
    assert (caught.value.param, caught.value.code) == ("suffix", "unsupported_value")
    with serving(Echo()) as address, pytest.raises(openai.BadRequestError) as caught:
        client_of(address).completions.create(model=MODEL, prompt="a")
    assert caught.value.param == "model"
    assert engine.requests == []


def test_adapters_are_taken_and_templates_are_not(client: openai.OpenAI, engine: Echo) -> None:
    client.completions.create(model=f"{MODEL}+pirate", prompt="a")
    assert engine.requests[-1].adapter == "pirate"
    with pytest.raises(openai.BadRequestError, match="not with a template"):
        client.completions.create(model=f"{MODEL}+calm", prompt="a")


class Sure(ScriptedEngine):
    def __init__(self) -> None:
        super().__init__()
        self.info = dataclasses.replace(self.info, raw_prompts=frozenset({"text"}))

    def stream(self, request: Any) -> Any:
        for text in (" a", "b"):
            other = TokenLogprob(b"c", -2.0)
            yield Delta(text, logprobs=(TokenLogprob(text.encode(), -1.0, (other,)),))
        yield Finished(StopReason.LENGTH, Usage(1, 0, 2))


def test_logprobs_have_the_old_form() -> None:
    with serving(Sure()) as address:
        client = client_of(address)
        reply = client.completions.create(model=MODEL, prompt="x", logprobs=1)
        pieces = list(client.completions.create(model=MODEL, prompt="x", logprobs=1, stream=True))
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.token_logprobs) == ([" a", "b"], [-1.0, -1.0])
    assert (logprobs.top_logprobs, logprobs.text_offset) == ([{"c": -2.0}] * 2, [0, 2])
    assert pieces[1].choices[0].logprobs.text_offset == [2]  # type: ignore[union-attr]
    assert pieces[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": [{}]}, "prompt"),
        ({"prompt": ["a"] * 5, "n": 2}, "prompt"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": True}, "logprobs"),
        ({"suffix": 1}, "suffix"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_cannot_be_served_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_completion_request({"model": "m", "prompt": "x"} | fields)
    assert (caught.value.status, caught.value.param) == (400, param)
