"""Bodies that no client would send, on the endpoints of Ollama and Anthropic."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm_serve import http_guard
from chatlm_serve.errors import ApiError
from chatlm_serve.protocols import anthropic_messages, ollama_chat
from chatlm_serve.protocols.anthropic_messages import parse_message_request
from chatlm_serve.protocols.ollama_chat import parse_chat_request, parse_generate_request
from tests.plugins.serve import MODEL, Answer, Echo, send, serving

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)

BLOCK = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "thinking", "tool_use", "tool_result", "image"])},
    optional={
        name: JSON | st.text(max_size=5)
        for name in ("text", "thinking", "id", "name", "input", "tool_use_id", "content")
    },
)

MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"])},
    optional={
        "content": st.text(max_size=9) | st.lists(BLOCK, max_size=3) | JSON,
        "tool_calls": st.lists(JSON, max_size=2),
        "thinking": JSON,
    },
)

MESSAGES = {"messages": st.lists(MESSAGE | JSON, max_size=4) | JSON}

TOOLS = {"tools": st.lists(JSON, max_size=2) | JSON, "tool_choice": JSON}


def bodies(fields: frozenset[str]) -> st.SearchStrategy[dict[str, Any]]:
    known = dict.fromkeys(fields, JSON) | {"model": st.just("m") | JSON}
    known |= {name: each for name, each in (MESSAGES | TOOLS).items() if name in fields}
    return st.fixed_dictionaries({}, optional=known)


def check_refuses(parse: Callable[[Mapping[str, Any]], object], body: dict[str, Any]) -> None:
    try:
        parse(body)
    except ApiError as error:
        assert error.status == 400


@given(bodies(anthropic_messages.KNOWN_FIELDS))
def test_any_message_is_read_or_refused(body: dict[str, Any]) -> None:
    check_refuses(parse_message_request, body)


@given(bodies(ollama_chat.CHAT_FIELDS))
def test_any_chat_is_read_or_refused(body: dict[str, Any]) -> None:
    check_refuses(parse_chat_request, body)


@given(bodies(ollama_chat.GENERATE_FIELDS))
def test_any_prompt_is_read_or_refused(body: dict[str, Any]) -> None:
    check_refuses(parse_generate_request, body)


PATHS = (
    "/v1/messages", "/v1/messages/count_tokens", "/api/chat", "/api/generate", "/api/show",
    "/api/embed", "/api/embeddings", "/api/pull",
)  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATLM_HOME", str(tmp_path_factory.mktemp("home")))
        with serving(Echo()) as address:
            yield address


def post(address: str, path: str, content: bytes, kind: str = "application/json") -> Answer:
    return send(address, path, content, method="POST", headers={"Content-Type": kind})


@pytest.mark.parametrize("path", PATHS)
def test_broken_bodies_get_a_clear_error(address: str, path: str) -> None:
    deep = b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    huge = b'{"prompt": "' + b"x" * 2**21 + b'"}'
    for content, status in (
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"\xff\xfe", 400),
        (deep, 400),
        (b'{"model": "\\ud800"}', 400),
        (huge, 413),
        (b'{"model": 7}', 400),
        (b'{"model": "m", "input": 7, "messages": 7, "prompt": 7, "max_tokens": 1}', 400),
    ):
        answer = post(address, path, content)
        if path == "/api/pull" and answer.status == 501:
            continue
        assert answer.status == status, (content[:60], answer.body[:200])
        error = answer.json["error"]
        assert error if isinstance(error, str) else error["message"]
    assert post(address, path, b"{}", "text/plain").status == 415
    assert send(address, path, method="PUT").status == 405


@pytest.mark.parametrize("path", PATHS)
def test_an_error_never_repeats_a_large_value(address: str, path: str) -> None:
    large: Any = "x" * 300_000
    known = {"model": MODEL, "max_tokens": 1}
    for values in (
        {"temperature": large, "options": {"temperature": large}},
        {"messages": large, "input": large, "prompt": [large]},
        {"model": large},
        {large: 1},
    ):
        answer = post(address, path, json.dumps(known | values).encode())
        assert answer.status in (400, 404, 501)
        assert len(answer.body) < 1000


def test_numbers_that_json_does_not_have_are_refused(address: str) -> None:
    user = {"role": "user", "content": "hi"}
    for number in ("NaN", "-Infinity", "1e400"):
        body = json.dumps({"model": MODEL, "input": [user], "metadata": {"a": 0}})
        answer = post(address, "/v1/responses", body.replace("0", number).encode())
        assert answer.status == 400


def test_bodies_of_all_requests_have_a_limit(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"model": MODEL, "messages": "x" * 500_000}).encode()
    for limit, status in ((400_000, 503), (600_000, 400), (600_000, 400)):  # given back each time
        monkeypatch.setattr(http_guard, "MAX_RECEIVED_BYTES", limit)
        answer = post(address, "/api/chat", body)
        assert answer.status == status
        assert ("Retry-After" in answer.headers or "retry-after" in answer.headers) == (
            status == 503
        )


def test_large_bodies_without_images_are_refused_before_they_are_searched_or_parsed(
    address: str,
) -> None:
    image = "A" * 1_500_000
    for text, status in (
        (f'{{"images": ["{image}"], "model": 7}}', 400),
        (f'{{"images": ["{image}', 413),
        ('"data"' + " " * 2_000_000, 413),
        ("[" + '"",' * 600_000 + '""]', 413),
    ):
        assert post(address, "/api/chat", text.encode()).status == status


EXPLODING = [
    {"$ref": "#"},
    {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}},
    {"enum": [f"value {number}" for number in range(200_000)]},
    {"type": "string", "pattern": "(a+)+(b+)+" * 500 + "("},
    {"type": "string", "pattern": "(" * 5000 + "a" + ")" * 5000},
    {"allOf": [{"anyOf": [{"type": "string"}, {"type": "integer"}]}] * 5000},
]


@pytest.mark.parametrize("schema", EXPLODING, ids=range(len(EXPLODING)))
def test_exploding_schemas_end_soon(address: str, schema: dict[str, Any]) -> None:
    """The engine of this server takes no schemas, so whatever passes the checks is refused."""
    user = {"role": "user", "content": "hi"}
    form = {"format": {"type": "json_schema", "schema": schema}}
    for path, body in (
        ("/api/chat", {"model": MODEL, "messages": [user], "format": schema, "stream": False}),
        (
            "/v1/messages",
            {"model": MODEL, "max_tokens": 9, "messages": [user], "output_config": form},
        ),
    ):
        assert post(address, path, json.dumps(body).encode()).status in (400, 413)


def test_the_server_is_well_afterwards(address: str, home: Path) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": False}
    answer = post(address, "/api/chat", json.dumps(body).encode())
    assert answer.json["message"]["content"] == "HI"
