"""Replies from a server: streamed, stopped, cancelled, several at once."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from chatlm import (
    ContextTooLong,
    Delta,
    EngineError,
    EngineEvent,
    Finished,
    Message,
    Prefill,
    PromptReady,
    Request,
    Sampling,
    StopReason,
    UsageError,
    load_config,
    side_chats,
    stream_many,
)
from chatlm.types.setups import Setup
from chatlm_openai.engine import OpenAIEngine, open_engine
from tests.plugins.openai_server import (
    Asked,
    Handler,
    Script,
    echoes,
    hangs,
    keeps_silent,
    piece,
    says,
    serving,
    streams,
)
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("home")


@contextmanager
def engine_of(script: Script, model: str = "m") -> Iterator[OpenAIEngine]:
    with closing(open_engine(f"{model}@{script.url}")) as engine:
        yield engine


def request(*texts: str, **sampling: Any) -> Request:
    roles = itertools.cycle(("user", "assistant"))
    messages = (Message(role, text) for role, text in zip(roles, texts, strict=False))  # type: ignore[arg-type]
    return Request(tuple(messages), Sampling(**sampling))


def text_of(events: list[EngineEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def ending(events: list[EngineEvent]) -> Finished:
    last = events[-1]
    assert isinstance(last, Finished)
    return last


def events_of(script: Script, request: Request) -> list[EngineEvent]:
    with engine_of(script) as engine:
        return list(engine.stream(request))


def test_a_reply_is_streamed_with_what_it_cost() -> None:
    with serving(says("Hel", "lo", " ☃")) as script, engine_of(script) as engine:
        assert (engine.info.model, engine.info.context_length) == (script.model, 4096)
        assert engine.info.notes == ()
        events = list(engine.stream(request("Hi")))
    assert isinstance(events[0], PromptReady)
    assert [e.text for e in events if isinstance(e, Delta) and e.text] == ["Hel", "lo", " ☃"]
    end = ending(events)
    assert end.stop_reason is StopReason.END
    assert (end.usage.prompt_tokens, end.usage.completion_tokens, end.usage.cached_tokens) == (
        7, 3, 2,
    )  # fmt: skip
    assert end.usage.first_token_seconds is not None
    assert end.usage.first_token_seconds > 0


def test_chunks_are_counted_if_the_server_reports_no_usage() -> None:
    with serving(streams(piece("a"), piece("b"), piece("", "stop"))) as script:
        assert ending(events_of(script, request("Hi"))).usage.completion_tokens == 2


def test_a_buffered_reply_has_no_speed() -> None:
    pieces = [f"data: {json.dumps(piece(text))}\n\n".encode() for text in ("a", "b", "c")]

    def in_one(handler: Handler, asked: Asked) -> None:
        handler.begin()
        handler.raw(b"".join(pieces))
        handler.event(piece("", "stop"))
        handler.end()

    def one_by_one(handler: Handler, asked: Asked) -> None:
        handler.begin()
        for each in pieces:
            handler.raw(each)
            time.sleep(0.1)
        handler.event(piece("", "stop"))
        handler.end()

    with serving(in_one, one_by_one) as script:
        at_once, made = (ending(events_of(script, request("Hi"))).usage for _ in range(2))
    assert at_once.tokens_per_second is None
    assert made.tokens_per_second is not None
    assert 1 < made.tokens_per_second < 20


def test_all_settings_are_sent_and_open_ones_are_left_to_the_server() -> None:
    with serving() as script:
        events_of(script, request("Hi"))
        events_of(
            script,
            request(
                "Hi", temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, frequency_penalty=0.2,
                presence_penalty=-0.3, repetition_penalty=1.2, max_tokens=9, seed=4, stop=("x",),
            ),
        )  # fmt: skip
        events_of(script, request("Hi", top_k=0, min_p=0.0, repetition_penalty=1.0))
    bare, full, off = (each.body for each in script.asked)
    fixed = {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 1024,
    }
    assert bare == off == fixed
    assert full == fixed | {
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "frequency_penalty": 0.2,
        "presence_penalty": -0.3, "repetition_penalty": 1.2, "repeat_penalty": 1.2,
        "max_tokens": 9, "seed": 4, "stop": ["x"],
    }  # fmt: skip


def test_newer_samplers_are_sent_where_they_are_set() -> None:
    newer = {
        "top_n_sigma": 1.5, "xtc_probability": 0.5, "xtc_threshold": 0.2,
        "dry_multiplier": 0.8, "dry_base": 1.5, "dry_allowed_length": 3,
    }  # fmt: skip
    biases = ((15043, -100.0), (3, 1.5), (3, 1.0))
    with serving() as script:
        events_of(script, request("Hi", **newer, logit_bias=biases))
    body = script.asked[0].body
    assert {name: body.get(name) for name in newer} == newer
    assert body["logit_bias"] == {"15043": -100.0, "3": 2.5}


def test_a_schema_is_sent_and_a_grammar_needs_a_local_model() -> None:
    schema = {"type": "object"}
    with serving() as script:
        events_of(script, request("Hi", schema=json.dumps(schema)))
        assert script.asked[0].body["response_format"]["json_schema"]["schema"] == schema
        with pytest.raises(UsageError, match="grammars of the kind regex"):
            events_of(script, request("Hi", grammar="regex:a"))
        assert len(script.asked) == 1


def test_a_bias_by_text_needs_a_local_model() -> None:
    with (
        serving() as script,
        pytest.raises(EngineError, match='text " cat"; a server takes') as refused,
    ):
        events_of(script, request("Hi", logit_bias=((" cat", 5.0),)))
    assert "ids of its tokens" in refused.value.hint
    assert script.asked == []


def test_a_reply_is_continued() -> None:
    with serving(says(" lamb.")) as script:
        events = events_of(script, request("Mary had", "a little"))
    assert text_of(events) == " lamb."
    body = script.asked[0].body
    assert body["messages"][-1] == {"role": "assistant", "content": "a little"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize("pieces", [("one tw", "o thr", "ee"), tuple("one two three")])
def test_a_stop_string_that_the_server_ignores_ends_the_reply(pieces: tuple[str, ...]) -> None:
    with serving(hangs(*map(piece, pieces))) as script:
        events = events_of(script, request("Hi", stop=("two",)))
        assert script.gone.wait(PATIENCE)
    assert text_of(events) == "one "
    assert (ending(events).stop_reason, ending(events).matched_stop) == (
        StopReason.STOP_STRING,
        "two",
    )


def test_withheld_text_is_not_lost() -> None:
    with serving(says("one tw")) as script:
        events = events_of(script, request("Hi", stop=("two",)))
    assert text_of(events) == "one tw"
    assert ending(events).stop_reason is StopReason.END


@pytest.mark.parametrize("field", ["stop_reason", "matched_stop"])
def test_a_stop_string_that_the_server_reports(field: str) -> None:
    with serving(says("one ", **{field: "two"})) as script:
        end = ending(events_of(script, request("Hi", stop=("two",))))
    assert (end.stop_reason, end.matched_stop) == (StopReason.STOP_STRING, "two")


@pytest.mark.parametrize(
    ("finish", "most", "reason", "stop"),
    [
        ("length", 5, StopReason.LENGTH, None),
        ("length", 100_000, StopReason.CONTEXT_FULL, None),
        ("content_filter", 5, StopReason.CONTENT_FILTER, None),
        ("tool_calls", 5, StopReason.TOOL_CALLS, None),
    ],
)
def test_why_a_reply_stopped(finish: str, most: int, reason: StopReason, stop: str | None) -> None:
    with serving(says("a", finish=finish)) as script:
        end = ending(events_of(script, request("Hi", max_tokens=most)))
    assert (end.stop_reason, end.matched_stop) == (reason, stop)
    assert script.asked[0].body["max_tokens"] <= 4096


def test_the_oldest_turns_are_dropped_when_the_context_is_full() -> None:
    words = "word " * 100
    with serving(models=[{"id": "m", "max_model_len": 256}]) as script:
        events = events_of(script, request(words, "So?", words, "So?", "Last words?"))
    fitted = events[0]
    assert isinstance(fitted, PromptReady)
    assert [m.text for m in fitted.omitted_messages] == [words, "So?"]
    assert [m["content"] for m in script.asked[0].body["messages"]] == [words, "So?", "Last words?"]
    assert fitted.prompt_tokens < fitted.context_length == 256


def test_a_message_that_cannot_fit_is_not_sent() -> None:
    with serving(models=[{"id": "m", "max_model_len": 128}]) as script:
        with pytest.raises(ContextTooLong, match="the context holds 128") as raised:
            events_of(script, request("word " * 500))
        assert script.asked == []
    assert "start the server with a larger context window" in raised.value.hint
    assert "config set" not in raised.value.hint  # no setting can extend the server's context


def test_a_limit_that_the_user_set_can_be_raised(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("CHATLM_OPENAI_CONTEXT", "128")
    with serving(models=[]) as script, pytest.raises(ContextTooLong) as raised:
        events_of(script, request("word " * 500))
    assert "plugins.openai.context" in raised.value.hint
    home.mkdir()
    (home / "config.toml").write_text("context = 128\n")
    with serving() as script, pytest.raises(ContextTooLong) as raised:
        events_of(script, request("word " * 500))
    assert "chatlm config set context" in raised.value.hint


@pytest.mark.parametrize(
    ("row", "context"),
    [
        ({"context_length": 1000}, 1000),
        ({"context_window": 2000}, 2000),
        ({"meta": {"n_ctx": 3000}}, 3000),
        ({"max_model_len": "many"}, 8192),
        ({}, 8192),
    ],
)
def test_the_context_is_the_servers_or_assumed(row: dict[str, Any], context: int) -> None:
    with serving(models=[{"id": "m", **row}]) as script, engine_of(script) as engine:
        assert engine.info.context_length == context
        assert bool(engine.info.notes) == (context == 8192)


def test_an_adapter_has_the_context_of_its_model() -> None:
    rows = [  # as vLLM 0.32 lists them
        {"id": "m", "parent": None, "max_model_len": 2048},
        {"id": "pirate", "parent": "m", "max_model_len": None},
    ]
    with serving(models=rows) as script, engine_of(script, "pirate") as engine:
        assert (engine.info.context_length, engine.info.notes) == (2048, ())


def test_an_unlisted_model_is_noted() -> None:
    with serving(models=[{"id": "other"}]) as script, engine_of(script) as engine:
        assert f"{script.url} does not list m;" in engine.info.notes[0]
        assert text_of(list(engine.stream(request("Hi")))) == "Hello there."


def test_the_user_may_set_the_context(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("CHATLM_OPENAI_CONTEXT", "2048")
    with serving(models=[]) as script, engine_of(script) as engine:
        assert (engine.info.context_length, engine.info.notes) == (2048, ())
    home.mkdir()
    (home / "config.toml").write_text("context = 512\n")
    with serving(models=[]) as script, engine_of(script) as engine:
        assert engine.info.context_length == 512


def test_a_server_without_a_list_of_models_is_used() -> None:
    with serving(says("Hello")) as script:
        script.list_status = 404
        assert text_of(events_of(script, request("Hi"))) == "Hello"


def test_the_preview_is_what_is_sent_and_an_estimate() -> None:
    asking = request("Hello, world! 12345 é 世界", "Yes", "Bye")
    with serving() as script, engine_of(script) as engine:
        prompt = engine.preview(asking)
        events = list(engine.stream(asking))
        assert list(engine.read_ahead(asking)) == []
        assert (
            engine.count_tokens(asking.messages) == len(prompt.tokens) == sum(prompt.message_tokens)
        )
    assert prompt.estimated
    for index, message in enumerate(asking.messages):
        pieces = [token.text for token in prompt.tokens if token.message_index == index]
        assert "".join(pieces) == message.text
    assert isinstance(events[0], PromptReady)
    assert events[0].prompt_hash == prompt.hash


def test_cancelling_within_a_reply_closes_the_connection() -> None:
    with serving(hangs(piece("one"))) as script, engine_of(script) as engine:
        events = engine.stream(request("Hi"))
        assert any(isinstance(event, Delta) and event.text == "one" for event in events)
        assert not script.gone.is_set()
        events.close()
        assert script.gone.wait(PATIENCE)


def test_cancelling_before_the_first_word_closes_the_connection() -> None:
    with serving(keeps_silent) as script, engine_of(script) as engine:
        events = engine.stream(request("Hi"))
        assert isinstance(next(events), PromptReady)
        assert isinstance(next(events), Prefill)  # comes although the server sends nothing
        events.close()
        assert script.gone.wait(PATIENCE)


def test_events_come_while_the_server_is_silent_within_a_reply() -> None:
    with serving(hangs(piece("one"))) as script, engine_of(script) as engine:
        events = engine.stream(request("Hi"))
        while not (isinstance(event := next(events), Delta) and event.text):
            pass
        waiting = next(events)
        assert waiting == Delta("", "", event.usage)
        events.close()


def test_closing_the_engine_cancels_its_requests() -> None:
    with serving(hangs(piece("one"))) as script:
        with engine_of(script) as engine:
            events = engine.stream(request("Hi"))
            assert any(isinstance(event, Delta) and event.text == "one" for event in events)
        assert script.gone.wait(PATIENCE)
        with pytest.raises(EngineError, match="The model was closed"):
            list(events)


def test_a_maximum_length_that_the_server_ignores_ends_the_reply() -> None:
    with serving(hangs(*map(piece, "abcdef"))) as script:
        events = events_of(script, request("Hi", max_tokens=4))
        assert script.gone.wait(PATIENCE)
    assert text_of(events) == "abcd"
    assert ending(events).stop_reason is StopReason.LENGTH


def test_text_that_the_server_withheld_may_come_after_the_last_token() -> None:
    """It may have been the start of a stop string, so it belongs to no chunk of its own."""
    with serving(streams(*map(piece, ("a", "b", "held")), piece("", finish="length"))) as script:
        events = events_of(script, request("Hi", max_tokens=2))
    assert text_of(events) == "abheld"
    assert ending(events).stop_reason is StopReason.LENGTH


def test_half_a_character_is_not_sent() -> None:
    with serving() as script:
        events_of(script, request("a\ud83d"))
    assert script.asked[0].body["messages"][0]["content"] == "a\ufffd"


def test_several_streams_run_side_by_side() -> None:
    """A judge may ask while a contestant answers."""
    with serving(hangs(piece("one")), says("two")) as script, engine_of(script) as engine:
        first = engine.stream(request("Hi"))
        assert any(isinstance(event, Delta) and event.text == "one" for event in first)
        assert text_of(list(engine.stream(request("Hi")))) == "two"
        first.close()


class Crowd:
    """Counts how many requests are answered at once; all wait until `least` are there."""

    def __init__(self, least: int) -> None:
        self.most = self._now = 0
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(least)

    def __call__(self, handler: Handler, asked: Asked) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self._barrier.wait(PATIENCE)
        with self._lock:
            self._now -= 1
        echoes(handler, asked)


def test_many_requests_are_in_flight_and_their_order_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests = [request(f"question {n}", seed=n) for n in range(12)]
    replies = {}
    for in_flight in (1, 4):
        monkeypatch.setenv("CHATLM_OPENAI_IN_FLIGHT", str(in_flight))
        crowd = Crowd(in_flight)
        said = dict.fromkeys(range(12), "")
        with serving(crowd) as script, engine_of(script) as engine:
            with closing(stream_many(engine, requests)) as events:
                for number, event in events:
                    said[number] += event.text if isinstance(event, Delta) else ""
            assert crowd.most == in_flight
        replies[in_flight] = said
    assert replies[1] == replies[4] == {n: f"question {n} #{n}" for n in range(12)}


def test_when_one_of_many_fails_the_others_are_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHATLM_OPENAI_IN_FLIGHT", "3")
    barrier = threading.Barrier(3)

    def second_fails(handler: Handler, asked: Asked) -> None:
        barrier.wait(PATIENCE)
        text = asked.body["messages"][-1]["content"]
        if text == "1":
            handler.whole(500, {"error": {"message": "out of memory"}})
            return
        time.sleep(0.3)
        echoes(handler, asked)

    finished = []
    requests = [request(str(number)) for number in range(9)]
    with (
        serving(second_fails) as script,
        engine_of(script) as engine,
        pytest.raises(EngineError, match="out of memory"),
    ):
        for number, event in stream_many(engine, requests):
            if isinstance(event, Finished):
                finished.append(number)
    assert sorted(finished) == [0, 2]
    assert len(script.asked) == 3


def test_closing_many_closes_all_connections() -> None:
    gone: list[int] = []

    def waits(handler: Handler, asked: Asked) -> None:
        handler.wait_until_gone()
        gone.append(1)

    with serving(waits) as script, engine_of(script) as engine:
        events = stream_many(engine, [request("Hi")] * 5)
        until = time.monotonic() + PATIENCE
        while len(script.asked) < 5:
            next(events)
            assert time.monotonic() < until
        events.close()
        while len(gone) < 5:
            time.sleep(0.01)
            assert time.monotonic() < until


def test_an_adapter_or_a_processor_is_refused() -> None:
    def shout(ids: Any, scores: Any) -> Any:
        return scores

    with serving() as script, engine_of(script) as engine:
        for asking, what in (
            (Request((Message("user", "Hi"),), adapter="pirate"), "adapter pirate"),
            (Request((Message("user", "Hi"),), logits_processors=(shout,)), "A plugin uses shout"),
            (Request((Message("user", "Hi"),), stopping_criteria=(shout,)), "A plugin uses shout"),
        ):
            with pytest.raises(EngineError, match=what):
                list(engine.stream(asking))
    assert script.asked == []


def test_a_side_chat_talks_to_it() -> None:
    with serving(echoes) as script, side_chats(load_config(), lambda words: None) as chats:
        chat = chats.begin(Setup(model=script.model))
        events = list(chat.stream(chat.request("Say it")))
    assert text_of(events).startswith("Say it #")
