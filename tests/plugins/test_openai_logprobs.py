"""Log-probabilities over the wire: `chatlm serve` to OpenAI's client and to chatlm, and servers
that refuse them, leave them aside, or send nonsense."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from chatlm import Delta, EngineError, Message, Request, Sampling, TokenLogprob
from chatlm.engines.devices import resolve_placement
from chatlm.engines.local_engine import LocalEngine
from chatlm.types.events import EngineEvent
from chatlm_openai.engine import open_engine
from tests.plugins.arena import chatlm
from tests.plugins.openai_server import piece, refuses, says, serving, streams
from tests.plugins.serve import serving as chatlm_serving

pytestmark = pytest.mark.usefixtures("home")

QUESTION = "What are the colours of the rainbow?"
SAMPLING: dict[str, Any] = {"temperature": 0.8, "seed": 4, "max_tokens": 24}


@pytest.fixture(scope="module")
def local(default_model: Path) -> Iterator[LocalEngine]:
    with closing(
        LocalEngine.from_folder("default", default_model, resolve_placement("cpu"))
    ) as engine:
        yield engine


@pytest.fixture(scope="module")
def address(local: LocalEngine) -> Iterator[str]:
    with chatlm_serving(local) as address:
        yield f"{address}/v1"


@pytest.fixture
def client(address: str) -> OpenAI:
    return OpenAI(base_url=address, api_key="none", max_retries=0)


def request(logprobs: int | None = 2, **sampling: Any) -> Request:
    asking = Sampling(**(SAMPLING | sampling))
    return Request((Message("user", QUESTION),), asking, logprobs=logprobs)


def tokens_of(events: list[EngineEvent]) -> list[TokenLogprob]:
    return [token for event in events if isinstance(event, Delta) for token in event.logprobs]


def text_of(events: list[EngineEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def ask(client: OpenAI, **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": QUESTION}]
    return client.chat.completions.create(
        model="default", messages=messages, **(SAMPLING | {"logprobs": True} | more)
    )


def test_openais_client_reads_logprobs_whole_and_streamed(
    client: OpenAI, local: LocalEngine
) -> None:
    expected = tokens_of(list(local.stream(request())))
    choice = ask(client, top_logprobs=2).choices[0]
    received = choice.logprobs.content
    assert [bytes(each.bytes) for each in received] == [each.bytes for each in expected]
    assert [each.logprob for each in received] == [each.logprob for each in expected]
    assert [[(top.token, top.logprob) for top in each.top_logprobs] for each in received] == [
        [(top.text, top.logprob) for top in each.top_logprobs] for each in expected
    ]
    assert "".join(each.token for each in received) == choice.message.content

    text, streamed = "", list[Any]()
    for chunk in ask(client, top_logprobs=2, stream=True):
        part = chunk.choices[0]
        text += part.delta.content or ""
        streamed += part.logprobs.content if part.logprobs else []
        assert text.startswith("".join(each.token for each in streamed))
    assert [each.model_dump() for each in streamed] == [each.model_dump() for each in received]
    assert text == choice.message.content


def test_logprobs_and_alternatives_are_sent_only_if_requested(client: OpenAI) -> None:
    assert all(not each.top_logprobs for each in ask(client).choices[0].logprobs.content)
    assert ask(client, logprobs=False).choices[0].logprobs is None
    chunks = list(ask(client, logprobs=False, stream=True))
    assert all(chunk.choices[0].logprobs is None for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_do_not_include_a_stop_string(client: OpenAI, stream: bool) -> None:
    whole = ask(client, temperature=0).choices[0]
    tokens = [each.token for each in whole.logprobs.content]
    stop = whole.message.content[len(tokens[0] + tokens[1]) + 1 :][:7]  # begins within a token
    reply = ask(client, temperature=0, stop=stop, stream=stream)
    choices = [chunk.choices[0] for chunk in reply] if stream else [reply.choices[0]]
    received = [each.token for c in choices if c.logprobs for each in c.logprobs.content]
    assert received == tokens[:2]


@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 0.0}, {"stop": ("green", "e, ")}, {"max_tokens": 1}]
)
def test_chatlm_reads_from_chatlm_what_the_local_engine_gives(
    address: str, local: LocalEngine, changes: dict[str, Any]
) -> None:
    expected = list(local.stream(request(3, **changes)))
    with closing(open_engine(f"default@{address}")) as remote:
        events = list(remote.stream(request(3, **changes)))
        assert (text_of(events), tokens_of(events)) == (text_of(expected), tokens_of(expected))
        assert tokens_of(expected)
        assert tokens_of(list(remote.stream(request(None, **changes)))) == []


def row(token: str, logprob: Any = -0.5, **more: Any) -> dict[str, Any]:
    return {"token": token, "logprob": logprob} | more


def logprobs_of(*rows: Any) -> dict[str, Any]:
    return {"logprobs": {"content": list(rows)}}


def asked_of(*events: Any, **sampling: Any) -> list[EngineEvent]:
    with serving(streams(*events)) as script, closing(open_engine(f"m@{script.url}")) as engine:
        return list(engine.stream(request(**sampling)))


def test_logprobs_are_requested_only_if_wanted() -> None:
    with serving() as script, closing(open_engine(f"m@{script.url}")) as engine:
        for number in (None, 0, 5):
            list(engine.stream(request(number)))
    fields = [
        {name: value for name, value in each.body.items() if "logprobs" in name}
        for each in script.asked
    ]
    assert fields == [
        {}, {"logprobs": True, "top_logprobs": 0}, {"logprobs": True, "top_logprobs": 5},
    ]  # fmt: skip


def test_logprobs_of_withheld_text_come_with_the_text() -> None:
    """The server ignores stop strings, and sends a token that also ends the reply."""
    pieces = [piece(text, **logprobs_of(row(text))) for text in ("one", " tw", "o", " three")]
    end = piece("", "stop", **logprobs_of(row("<|im_end|>")))
    events = asked_of(*pieces, end, stop=("two", "three four"))
    assert [(e.text, [t.text for t in e.logprobs]) for e in events if isinstance(e, Delta)] == [
        ("one", ["one"]), (" ", []), ("", []),
    ]  # fmt: skip
    events = asked_of(*pieces, end, stop=("three four",))
    assert [token.text for token in tokens_of(events)] == ["one", " tw", "o", " three"]


def test_bytes_take_precedence_and_partial_characters_wait() -> None:
    first, second = row("\\xc3", bytes=[0xC3]), row("\\xa9", -1, bytes=[0xA9])
    top = [row("x", -3.0), row("y", -4.0, bytes=None)]
    events = asked_of(
        piece("", **logprobs_of(first)), piece("é", **logprobs_of(second | {"top_logprobs": top})),
        piece("", "stop"),
    )  # fmt: skip
    alternatives = (TokenLogprob(b"x", -3.0), TokenLogprob(b"y", -4.0))
    assert tokens_of(events) == [
        TokenLogprob(b"\xc3", -0.5), TokenLogprob(b"\xa9", -1, alternatives),
    ]  # fmt: skip


def test_reasoning_has_no_logprobs() -> None:
    delta = {"reasoning_content": "Hmm"}
    thought = {"choices": [{"index": 0, "delta": delta, **logprobs_of(row("Hmm"))}]}
    events = asked_of(thought, piece("Yes", **logprobs_of(row("Yes"))), piece("", "stop"))
    assert [token.text for token in tokens_of(events)] == ["Yes"]


@pytest.mark.parametrize(
    "nonsense",
    [
        {"logprobs": 7},
        {"logprobs": {"content": "x"}},
        logprobs_of("x", None, {}),
        logprobs_of(
            row("a", "low"), row("a", None), row("a", math.nan), row("a", True), row("a", False)
        ),
        logprobs_of(row("a", -(10**400)), row("a", 0.7), row("a", -1e9)),
    ],
)
def test_invalid_logprobs_are_ignored(nonsense: dict[str, Any]) -> None:
    events = asked_of(piece("a", **nonsense), piece("", "stop"))
    assert (text_of(events), tokens_of(events)) == ("a", [])


@pytest.mark.parametrize("wrong", [[256], ["a"], [1.5], [None]])
def test_invalid_token_bytes_are_refused(wrong: list[Any]) -> None:
    with pytest.raises(EngineError, match="the bytes of a token are invalid"):
        asked_of(piece("a", **logprobs_of(row("a", bytes=wrong))), piece("", "stop"))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "Requested sample logprobs of 20, which is greater than max allowed: 5"}),
        (400, {"message": "Unsupported parameter.", "param": "top_logprobs"}),
        (403, {"message": "You are not allowed to request logprobs from this model"}),
        (422, {"message": "Unexpected fields: logprobs, top_logprobs"}),
    ],
)
def test_a_server_that_refuses_is_quoted(status: int, error: dict[str, Any]) -> None:
    with serving(refuses(status, {"error": error})) as script:
        failed = chatlm("ask", "--json", "--logprobs", "20", "-m", script.model, "Hi")
    assert failed.returncode == 1
    assert "does not support the requested logprobs" in failed.stderr
    assert error["message"] in failed.stderr
    assert "without logprobs" in failed.stderr
    assert "Traceback" not in failed.stderr
    with serving(refuses(status, {"error": error})) as script:
        plain = chatlm("ask", "-m", script.model, "Hi")
    assert "how likely" not in plain.stderr  # nobody asked for it


def test_a_server_that_ignores_logprobs_is_reported() -> None:
    with serving(says("Hello", " there.")) as script:
        done = chatlm("ask", "--json", "--logprobs", "0", "-m", script.model, "Hi")
        assert script.asked[0].body["logprobs"] is True
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["text"], answer["logprobs"]) == (0, "Hello there.", None)
    assert any("log-probabilities" in notice for notice in answer["notices"])
    assert "log-probabilities" in done.stderr


def test_a_hopeless_token_has_a_perplexity_too() -> None:
    """Servers write -9999 for a token that is not among those that they look at."""
    hopeless = piece("a", "stop", **logprobs_of(row("a", -9999.0)))
    with serving(streams(hopeless)) as script:
        done = chatlm("ask", "--json", "--logprobs", "0", "-m", script.model, "Hi")
    answer = json.loads(done.stdout)["logprobs"]
    assert (answer["mean"], answer["perplexity"] > 1e300) == (-9999.0, True)
