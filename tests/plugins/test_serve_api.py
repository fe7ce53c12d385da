"""The endpoint as its clients see it: the official one, and whatever else speaks HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from benchmarks.serve import load, questions
from chatlm import (
    ContentFiltered,
    Conversation,
    Delta,
    EngineEvent,
    Finished,
    MessageRefused,
    PromptReady,
    Request,
    Sampling,
    Setup,
    StopReason,
    ToolCall,
    Usage,
    UsageError,
    hookimpl,
)
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import EngineError
from chatlm.plugin_host.host import PluginHost
from chatlm_serve.generation_request import MAX_CHARACTERS_PER_TOKEN
from chatlm_serve.protocols.openai_chat import FINISH_REASONS
from tests.plugins.serve import MODEL, Echo, send, serving
from tests.waiting import PATIENCE, wait_until

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
WORDS = " ".join(f"word{number}" for number in range(200))


class Plugin:
    """Offers set-ups and refuses some words."""

    @hookimpl
    def register_setups(self, register: Callable[[str, Setup], None]) -> None:
        register("pirate", Setup(adapter="pirate"))
        register("calm", Setup(sampling=Sampling(temperature=0.1), system="Be calm."))
        register("elsewhere", Setup(model="another"))

    @hookimpl
    def write_message(self, conversation: Conversation, text: str) -> UsageError | None:
        return {
            "refuse": MessageRefused("Nothing is known of that."),
            "break": UsageError("The index is gone.", hint="Build it."),
        }.get(text)


@pytest.fixture
def engine() -> Echo:
    return Echo()


@pytest.fixture
def address(engine: Echo) -> Iterator[str]:
    with serving(engine, plugins=PluginHost([("own", Plugin())])) as address:
        yield address


@pytest.fixture
def client(address: str) -> OpenAI:
    return client_of(address)


def client_of(address: str, **more: Any) -> OpenAI:
    return OpenAI(base_url=f"{address}/v1", max_retries=0, **({"api_key": "none"} | more))


def _body(text: str) -> bytes:
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": text}]}).encode()


def ask(client: OpenAI, text: str, model: str = MODEL, **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=messages, **more)


def test_a_reply_comes_whole(client: OpenAI) -> None:
    reply = ask(client, "one two")
    assert reply.object == "chat.completion"
    assert reply.model == MODEL
    assert reply.choices[0].message.content == "ONE TWO"
    assert reply.choices[0].finish_reason == "stop"
    usage = reply.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (4, 2, 6)


def test_a_reply_comes_word_by_word(client: OpenAI) -> None:
    pieces = list(ask(client, "one two", stream=True, stream_options={"include_usage": True}))
    assert [piece.choices[0].delta.content for piece in pieces[:-1]] == ["", "ONE", " TWO", None]
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-2].choices[0].finish_reason == "stop"
    assert (pieces[-1].choices, pieces[-1].usage.total_tokens) == ([], 6)
    assert len({piece.id for piece in pieces}) == 1
    short = list(ask(client, "one two", stream=True, max_tokens=1))
    assert short[-1].choices[0].finish_reason == "length"
    assert short[-1].usage is None


def test_the_whole_conversation_and_sampling_reach_the_engine(client: OpenAI, engine: Echo) -> None:
    client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "FIRST"},
            {"role": "user", "content": "second"},
        ],
        temperature=0.5,
        top_p=0.4,
        seed=3,
        stop=["x", "y"],
        frequency_penalty=0.1,
        presence_penalty=0.2,
        max_completion_tokens=5,
        extra_body={"top_k": 8},
    )
    request = engine.requests[-1]
    assert [(message.role, message.text) for message in request.messages] == [
        ("system", "Be brief."), ("user", "first"), ("assistant", "FIRST"), ("user", "second"),
    ]  # fmt: skip
    wanted = Sampling(0.5, 8, 0.4, None, 0.1, 0.2, None, 5, 3, ("x", "y"))
    assert request.sampling == wanted.with_fallback(engine.info.default_sampling)


def test_models_are_listed_with_what_can_be_joined(client: OpenAI, engine: Echo) -> None:
    models = {model.id: model for model in client.models.list()}
    assert {"scripted", "scripted+pirate", "scripted+calm"} <= models.keys()
    assert "scripted+elsewhere" not in models
    assert models["scripted"].max_model_len == 4096  # type: ignore[attr-defined]
    assert models["scripted+pirate"].parent == "scripted"  # type: ignore[attr-defined]
    assert ask(client, "x", "scripted+pirate+calm").model == "scripted+pirate+calm"
    request = engine.requests[-1]
    assert (request.adapter, request.sampling.temperature) == ("pirate", 0.1)
    assert request.messages[0].text == "Be calm."
    ask(client, "x", "scripted+calm", temperature=1)
    assert engine.requests[-1].sampling.temperature == 1


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, "x", "gpt-4")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


@pytest.mark.parametrize("stream", [False, True])
def test_too_long_a_prompt_is_refused_as_a_whole(client: OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="tokens") as caught:
        ask(client, "long " * 5000, stream=stream)
    assert caught.value.code == "context_length_exceeded"


def test_no_message_is_dropped_silently(client: OpenAI, engine: Echo) -> None:
    messages: Any = [
        {"role": role, "content": "long " * 1000} for role in ("user", "assistant") * 2
    ]
    messages.append({"role": "user", "content": "short"})
    with pytest.raises(
        openai.BadRequestError, match="2 of the messages would be omitted"
    ) as caught:
        client.chat.completions.create(model=MODEL, messages=messages)
    assert caught.value.code == "context_length_exceeded"
    assert engine.made == 0


def test_a_refused_message_is_answered_by_the_reason(client: OpenAI, engine: Echo) -> None:
    assert ask(client, "refuse").choices[0].message.content == "Nothing is known of that."
    pieces = list(ask(client, "refuse", stream=True))
    assert pieces[1].choices[0].delta.content == "Nothing is known of that."
    later: Any = [
        {"role": "user", "content": "refuse"},
        {"role": "assistant", "content": "Nothing is known of that."},
        {"role": "user", "content": "more"},
    ]
    client.chat.completions.create(model=MODEL, messages=later)
    assert [message.text for message in engine.requests[-1].messages] == ["more"]


def test_a_set_up_that_does_not_work_is_reported(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="The index is gone"):
        ask(client, "break")
    with pytest.raises(openai.BadRequestError, match="a user message is empty"):
        ask(client, " ")


class Breaking(Echo):
    """Fails at first before the first word, then after it."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def stream(self, request: Request) -> Any:
        if "later" in request.messages[-1].text:
            yield from list(super().stream(request))[:4]
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (EngineError("The memory is full"), "memory is full"),
        (ZeroDivisionError("secret"), "Internal server error"),
    ],
)
def test_an_engine_that_fails_is_reported(error: Exception, said: str) -> None:
    with serving(Breaking(error)) as address:
        client = client_of(address)
        with pytest.raises(openai.InternalServerError, match=said) as caught:
            ask(client, "now", stream=True)
        assert "secret" not in str(caught.value)
        stream = ask(client, "a little later", stream=True)
        with pytest.raises(openai.APIError, match=said):
            list(stream)
        with pytest.raises(openai.InternalServerError, match=said):
            ask(client, "a little later")


def test_a_client_that_goes_away_stops_the_engine_within_a_token() -> None:
    engine = Echo(delay=0.1)
    with serving(engine) as address:
        stream = ask(client_of(address), WORDS, stream=True)
        for seen, _ in enumerate(stream):
            if seen == 3:
                break
        stream.close()
        made = engine.made
        assert ask(client_of(address), "next").choices[0].message.content == "NEXT"
        assert engine.made - 1 <= made + 2  # one is being made, and one is on its way
        assert len(engine.requests) == 2


def test_a_client_that_goes_away_stops_a_reply_that_comes_whole() -> None:
    engine = Echo(delay=0.1)
    with serving(engine) as address:
        with pytest.raises(openai.APITimeoutError):
            ask(client_of(address, timeout=0.5), WORDS)
        made = engine.made
        ask(client_of(address), "next")
        assert engine.made - 1 <= made + 2


def test_a_client_that_leaves_the_queue_is_never_answered() -> None:
    engine = Echo(delay=0.1)
    with serving(engine) as address:
        first = ask(client_of(address), WORDS[:150], stream=True)
        with pytest.raises(openai.APITimeoutError):
            ask(client_of(address, timeout=0.2), "impatient")
        assert len(list(first)) > 10
        ask(client_of(address), "next")
        assert [request.messages[-1].text for request in engine.requests] == [
            WORDS[:150],
            "next",
        ]


class Slow:
    """Takes its time with one message, and notes all."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    @hookimpl
    def write_message(self, conversation: Conversation, text: str) -> None:
        self.seen.append(text)
        if text == "slow":
            self.begun.set()
            self.may_go_on.wait(PATIENCE)


def test_a_request_that_is_slow_to_build_delays_no_running_reply() -> None:
    """The reply is held until the slow one begins, and that one until the reply has ended."""
    engine, plugin = Echo(), Slow()
    with (
        serving(engine, plugins=PluginHost([("slow", plugin)])) as address,
        ThreadPoolExecutor() as pool,
    ):
        engine.may_speak.clear()
        running = pool.submit(lambda: list(ask(client_of(address), WORDS, stream=True)))
        wait_until(lambda: engine.requests)
        slow = pool.submit(lambda: ask(client_of(address), "slow"))
        assert plugin.begun.wait(PATIENCE)
        engine.may_speak.set()
        assert running.result(PATIENCE / 2)
        plugin.may_go_on.set()
        assert slow.result(PATIENCE).choices[0].message.content == "SLOW"


def test_what_cannot_fit_the_context_is_refused_before_a_plugin_or_the_engine_sees_it() -> None:
    engine, plugin = Echo(), Slow()
    with serving(engine, plugins=PluginHost([("slow", plugin)])) as address:
        limit = MAX_CHARACTERS_PER_TOKEN * engine.info.context_length
        with pytest.raises(openai.BadRequestError, match="do not fit the context") as caught:
            ask(client_of(address), "x" * (limit + 1))
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
        look = {"name": "look", "description": "x" * limit, "parameters": {"type": "object"}}
        with pytest.raises(openai.BadRequestError, match="do not fit the context"):
            ask(client_of(address), "x", tools=[{"type": "function", "function": look}])
        assert (plugin.seen, engine.requests) == ([], [])
        ask(client_of(address), "x" * limit)
        assert len(plugin.seen) == len(engine.requests) == 1


async def test_a_full_queue_turns_away(engine: Echo, caplog: pytest.LogCaptureFixture) -> None:
    engine.may_speak.clear()
    with serving(engine, queue=1) as address:
        stream = ask(client_of(address), "x", stream=True)
        client = AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)

        async def one_more() -> None:
            messages: Any = [{"role": "user", "content": "y"}]
            try:
                await client.chat.completions.create(model=MODEL, messages=messages)
            except openai.RateLimitError as error:
                refused.append(error)

        refused: list[openai.RateLimitError] = []
        waiting = [asyncio.create_task(one_more()) for _ in range(5)]
        while len(refused) < 4:
            await asyncio.sleep(0.01)
        assert refused[0].response.headers["Retry-After"] == "1"
        assert refused[0].code == "rate_limit_exceeded"
        with pytest.raises(openai.RateLimitError):
            ask(client_of(address), "y", stream=True)
        retrying = asyncio.create_task(
            asyncio.to_thread(ask, client_of(address).with_options(max_retries=9), "z")
        )
        await asyncio.sleep(0.2)
        engine.may_speak.set()
        assert (await retrying).choices[0].message.content == "Z"  # the client itself tried again
        await asyncio.gather(*waiting)
        await client.close()
        assert len(list(stream)) == 3
    assert [request.messages[-1].text for request in engine.requests] == ["x", "y", "z"]
    assert "Exception" not in caplog.text


def test_streams_end_when_the_server_does() -> None:
    engine = Echo(delay=0.1)
    with serving(engine) as address:
        stream = ask(client_of(address), WORDS, stream=True)
        next(stream)
    with pytest.raises(openai.APIError, match="shutting down"):
        list(stream)
    assert engine.made < 20


async def test_fifty_clients_at_once_get_their_own_replies() -> None:
    engine = Echo(delay=0.002)
    expected = {question: question.upper() for question in questions(50)}
    with serving(engine, queue=20) as address:
        made = await load(address, MODEL, expected, seconds=3, tokens=24)
    assert (made.mixed, made.lost) == (0, 0)
    assert made.answered > 5
    assert made.turned_away > 0
    assert made.left > 0
    assert len(engine.requests) == made.answered + made.left


def test_a_token_is_asked_for(engine: Echo) -> None:
    with serving(engine, token="s3cret-é") as address:
        for wrong in ("none", "s3cret", "s3cret-e"):
            with pytest.raises(openai.AuthenticationError) as caught:
                ask(client_of(address, api_key=wrong), "x")
            assert caught.value.code == "invalid_api_key"
            assert "s3cret" not in str(caught.value)
        right = "Bearer s3cret-é".encode()
        assert send(address, "/v1/models", headers={"Authorization": right}).status == 200
        assert send(address, "/v1/models").status == 401
        assert send(address, "/health").json == {"status": "ok"}


def test_another_host_name_is_refused(address: str) -> None:
    answer = send(address, "/v1/models", headers={"Host": "evil.example"})
    assert (answer.status, answer.json["error"]["code"]) == (403, "wrong_host")
    with serving(Echo(), loopback=False, token="t") as open_address:
        headers = {"Host": "gpu.example", "Authorization": "Bearer t"}
        named = send(open_address, "/v1/models", headers=headers)
        assert named.status == 200


def test_curl_needs_no_header(address: str) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert send(address, CHAT, _body("x"), method="POST", headers=form).status == 200


def test_a_web_page_of_another_origin_gets_nothing(address: str, engine: Echo) -> None:
    plain = {"Content-Type": "text/plain"}
    simple = send(address, CHAT, _body("x"), method="POST", headers=plain)
    assert simple.status == 415
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for sent in ({"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Referer": "http://x.y/"}):
        posted = send(address, CHAT, _body("x"), method="POST", headers={**form, **sent})
        assert posted.status == 415
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    preflight = send(address, CHAT, method="OPTIONS", headers=asked)
    assert preflight.status == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]
    assert engine.requests == []


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b'{"model": "\\ud800"}', 400),
        (b"[" * 100_000, 400),
        (b'{"a": ' + b"1" * 5000 + b"}", 400),
        (b" " * (2**20 + 1), 413),
    ],
)
def test_what_is_no_request_is_refused(address: str, content: bytes, status: int) -> None:
    answer = send(address, CHAT, content, method="POST", headers=JSON)
    assert answer.status == status
    assert answer.json["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v2", 404), ("PUT", "/v1/models", 405)]
)
def test_every_error_has_openais_form(address: str, method: str, path: str, status: int) -> None:
    answer = send(address, path, method=method)
    assert answer.status == status
    assert answer.json["error"].keys() == {"message", "type", "param", "code"}


def test_a_client_that_leaves_in_the_middle_of_its_request_harms_nobody(
    address: str, client: OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
    assert ask(client, "x").choices[0].message.content == "X"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


class Ending(ScriptedEngine):
    """Says `No.` and ends as told."""

    def __init__(self, reason: StopReason, *calls: ToolCall) -> None:
        super().__init__()
        self.end = Finished(reason, Usage(3, 0, 1), None, calls)

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        yield PromptReady(3, 99)
        if not self.end.tool_calls:
            yield Delta("No.")
        yield self.end


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (StopReason.STOP_STRING, "stop"),
        (StopReason.CRITERION, "stop"),
        (StopReason.CONTEXT_FULL, "length"),
        (StopReason.CONTENT_FILTER, "content_filter"),
        (StopReason.REFUSAL, "content_filter"),
    ],
)
def test_stop_reasons_have_openais_names(reason: StopReason, word: str) -> None:
    with serving(Ending(reason)) as address:
        client = client_of(address)
        (choice,) = ask(client, "Hi").choices
        *pieces, last = ask(client, "Hi", stream=True)
    assert (choice.finish_reason, last.choices[0].finish_reason) == (word, word)
    assert choice.message.content == "No."
    assert choice.message.refusal == ("No." if reason is StopReason.REFUSAL else None)
    assert [piece.choices[0].delta.content for piece in pieces] == ["", "No."]


def test_every_stop_reason_of_a_whole_reply_has_a_name() -> None:
    assert set(StopReason) - set(FINISH_REASONS) == {StopReason.CANCELLED, StopReason.ERROR}


def test_a_models_tool_calls_are_passed_on() -> None:
    with serving(Ending(StopReason.TOOL_CALLS, ToolCall("c1", "now", "{}"))) as address:
        client = client_of(address)
        (choice,) = ask(client, "Hi").choices
        *pieces, last = ask(client, "Hi", stream=True)
    (call,) = choice.message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("c1", "now", "{}")
    first, second = (piece.choices[0].delta.tool_calls[0] for piece in pieces[-2:])
    assert (first.id, first.function.name, first.function.arguments) == ("c1", "now", "")
    assert (second.id, second.index, second.function.arguments) == (None, 0, "{}")
    assert choice.finish_reason == last.choices[0].finish_reason == "tool_calls"


def test_a_reply_that_was_cut_off_is_an_error() -> None:
    with serving(Ending(StopReason.ERROR)) as address:
        client = client_of(address)
        with pytest.raises(openai.APIStatusError, match="cut off"):
            ask(client, "Hi")
        with pytest.raises(openai.APIError, match="cut off"):
            list(ask(client, "Hi", stream=True))


def test_a_message_that_a_filter_refuses_is_named_as_such() -> None:
    engine = Failing(ContentFiltered("Filtered.", hint="Ask otherwise."))
    with serving(engine) as address, pytest.raises(openai.BadRequestError) as refused:
        ask(client_of(address), "Hi")
    assert refused.value.code == "content_filter"


class Failing(ScriptedEngine):
    """Fails at once."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        yield PromptReady(3, 99)
        raise self.error
