"""Failures of servers: reported with a next step, and retried where that can help."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from chatlm import (
    ChatlmError,
    ContextTooLong,
    ContinuationUnsupported,
    Delta,
    EngineError,
    Finished,
    Request,
)
from chatlm_openai.engine import open_engine
from tests.plugins.openai_server import (
    Act,
    Asked,
    Handler,
    Script,
    breaks_off,
    hangs,
    keeps_silent,
    piece,
    refuses,
    refuses_fields,
    says,
    serving,
    streams,
)
from tests.plugins.test_openai import request
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("home")

KEY = "sk-very-secret-0123456789"


def said_until_it_failed(script: Script, asking: Request | None = None) -> tuple[str, ChatlmError]:
    """Return the text and the error; the stream must fail."""
    said = ""
    with closing(open_engine(f"m@{script.url}")) as engine, pytest.raises(ChatlmError) as raised:
        for event in engine.stream(asking or request("Hi")):
            said += event.text if isinstance(event, Delta) else ""
    error = raised.value
    assert error.message
    assert error.hint
    return said, error


def text_of(script: Script, asking: Request | None = None) -> str:
    with closing(open_engine(f"m@{script.url}")) as engine:
        events = list(engine.stream(asking or request("Hi")))
    assert isinstance(events[-1], Finished)
    return "".join(event.text for event in events if isinstance(event, Delta))


def error_of(*acts: Act) -> ChatlmError:
    with serving(*acts) as script:
        return said_until_it_failed(script)[1]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATLM_OPENAI_PATIENCE_SECONDS", "0")


def test_a_refused_connection() -> None:
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        started = time.monotonic()
        with pytest.raises(EngineError, match="cannot be reached: connection refused") as raised:
            open_engine(f"m@{url}")
        assert time.monotonic() - started < PATIENCE
    assert f"chatlm openai check {url}" in raised.value.hint


def test_a_refused_connection_is_retried_briefly() -> None:
    with serving() as script:
        engine = open_engine(f"m@{script.url}")
    started = time.monotonic()
    with closing(engine), pytest.raises(EngineError, match="connection refused"):
        list(engine.stream(request("Hi")))
    assert 0.4 <= time.monotonic() - started < PATIENCE


def test_a_server_that_does_not_accept_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATLM_OPENAI_CONNECT_SECONDS", "0.3")
    with serving() as script:
        engine = open_engine(f"m@{script.url}")
    port = int(script.url.removesuffix("/v1").rpartition(":")[2])
    with closing(engine), closing(socket.socket()) as full:
        full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        full.bind(("127.0.0.1", port))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        with pytest.raises(EngineError, match="cannot be reached: it does not respond"):
            open_engine(f"m@{script.url}")
        with pytest.raises(EngineError, match="cannot be reached: it does not respond"):
            list(engine.stream(request("Hi")))
        for each in waiting:
            each.close()


def test_an_unknown_host() -> None:
    with pytest.raises(EngineError, match="unknown host"):
        open_engine("m@http://nowhere.invalid/v1")


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_requires_a_key(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    act = refuses(status, {"error": {"message": "No key."}})
    with serving(act) as script:
        error = said_until_it_failed(script)[1]
        assert f"requires a key ({status}). Server message: No key." in error.message
        assert "plugins.openai.endpoints" in error.hint
        monkeypatch.setenv("CHATLM_OPENAI_ENDPOINTS", f'["gpu {script.url} GPU_KEY"]')
        with closing(open_engine("m@gpu")) as engine, pytest.raises(EngineError) as raised:
            list(engine.stream(request("Hi")))
        assert raised.value.hint == "Set the key in the environment: GPU_KEY=…"


def test_a_wrong_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_KEY", KEY)

    def echoes_the_key(handler: Handler, asked: Asked) -> None:
        handler.whole(401, {"error": {"message": f"Wrong: {asked.headers['Authorization']}"}})

    with serving(echoes_the_key) as script:
        monkeypatch.setenv("CHATLM_OPENAI_ENDPOINTS", f'["gpu {script.url} GPU_KEY"]')
        with closing(open_engine("m@gpu")) as engine, pytest.raises(EngineError) as raised:
            list(engine.stream(request("Hi")))
    assert script.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    assert script.listed[0].headers["Authorization"] == f"Bearer {KEY}"
    assert "rejects the key (401). Server message: Wrong: Bearer …" in raised.value.message
    assert KEY not in str(raised.value)


def test_an_invalid_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_KEY", "sk-1\nX-Other: 2")
    with serving() as script:
        monkeypatch.setenv("CHATLM_OPENAI_ENDPOINTS", f'["gpu {script.url} GPU_KEY"]')
        with pytest.raises(ChatlmError, match="contains invalid characters") as raised:
            open_engine("m@gpu")
    assert "sk-1" not in str(raised.value)
    assert script.listed == []


def test_an_unknown_model() -> None:
    with serving(refuses(404, {"error": {"message": "no such model"}})) as script:
        script.models = [{"id": f"model-{n}"} for n in range(10)]
        error = said_until_it_failed(script)[1]
    assert error.message == f"There is no model m on {script.url}."
    assert "It has: model-0, model-1" in error.hint
    assert "model-7 and 2 more." in error.hint
    with serving(refuses(404)) as script:
        script.models = [{"id": "nn"}, {"id": "mm"}]
        assert said_until_it_failed(script)[1].hint.startswith("Did you mean mm?")


def test_a_url_without_the_protocol() -> None:
    with serving() as script:
        script.url = script.url.removesuffix("/v1")
        error = said_until_it_failed(script)[1]
    assert "There is no OpenAI-compatible server" in error.message
    assert "/v1" in error.hint


def test_a_rate_limited_request_is_retried() -> None:
    busy = refuses(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.7"})
    with serving(busy, busy, says("Hello")) as script:
        started = time.monotonic()
        assert text_of(script) == "Hello"
        assert time.monotonic() - started >= 1.4
    assert len(script.asked) == 3
    assert script.asked[0].body == script.asked[2].body


@pytest.mark.parametrize("status", [502, 503])
def test_a_busy_server_is_retried(status: int) -> None:
    with serving(refuses(status, b"<html>Bad gateway</html>"), says("Hello")) as script:
        assert text_of(script) == "Hello"
    assert len(script.asked) == 2


@pytest.mark.usefixtures("impatient")
def test_retries_stop_after_patience_seconds() -> None:
    error = error_of(refuses(429, {"error": {"message": "slow down"}}))
    assert "accepts no more requests right now (429). Server message: slow down" in error.message
    error = error_of(refuses(503, b"<html>\x1b[31mUnavailable</html>"))
    assert error.message.endswith("failed (503).")


def test_a_long_retry_after_is_not_waited_for() -> None:
    started = time.monotonic()
    error = error_of(refuses(429, b"", {"Retry-After": "3600"}))
    assert "in 3600 seconds" in error.hint
    assert time.monotonic() - started < PATIENCE


def test_an_exhausted_quota_is_not_retried() -> None:
    broke = {"error": {"message": "Add credit.", "code": "insufficient_quota"}}
    with serving(refuses(429, broke), says("Hello")) as script:
        assert "Add credit." in said_until_it_failed(script)[1].message
    assert len(script.asked) == 1


def test_a_server_error_is_not_retried() -> None:
    with serving(refuses(500, {"detail": "broken"}), says("Hello")) as script:
        error = said_until_it_failed(script)[1]
    assert error.message.endswith("failed (500). Server message: broken")
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Too long.", "code": "context_length_exceeded"}},
        {"object": "error", "message": "This model's maximum context length is 2048 tokens."},
        {"error": {"type": "exceed_context_size_error", "message": "the request exceeds the "
                   "available context size"}},
        {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096"},
    ],
)  # fmt: skip
def test_a_chat_that_is_too_long(body: Any) -> None:
    error = error_of(refuses(400, body))
    assert isinstance(error, ContextTooLong)
    assert "too long for m" in error.message
    assert "/context" in error.hint
    assert "chatlm config set context N" in error.hint  # applies even where the server reports more


def test_a_chat_that_is_too_long_within_the_stream() -> None:
    said = {"error": {"message": "Requested tokens exceed context window of 1024"}}
    assert isinstance(error_of(streams(said)), ContextTooLong)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Unsupported.", "param": "top_k"}},
        {"detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs are not permitted"}]},
    ],
)
def test_a_rejected_field_is_named(body: Any) -> None:
    with serving(refuses(422, body)) as script:
        error = said_until_it_failed(script, request("Hi", top_k=40))[1]
    assert f"{script.url} rejects the value of top_k." in error.message
    assert "chatlm config unset sampling.top_k" in error.hint


def test_optional_fields_are_dropped_if_rejected() -> None:
    strict = refuses_fields("stream_options", "seed", "repeat_penalty")
    with serving(strict) as script, closing(open_engine(f"m@{script.url}")) as engine:
        for _ in range(2):
            list(engine.stream(request("Hi", seed=3, repetition_penalty=1.2)))
    assert len(script.asked) == 5  # the second time all three are known
    left = set(script.asked[-1].body)
    assert not {"stream_options", "seed", "repeat_penalty"} & left
    assert "repetition_penalty" in left


def test_max_completion_tokens_is_used_if_required() -> None:
    def wants_the_other(handler: Handler, asked: Asked) -> None:
        if "max_tokens" in asked.body:
            said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            handler.whole(400, {"error": {"message": said}})
            return
        says(str(asked.body["max_completion_tokens"]))(handler, asked)

    with serving(wants_the_other) as script:
        assert text_of(script, request("Hi", max_tokens=77)) == "77"


def test_a_server_that_cannot_continue_a_reply() -> None:
    with serving(refuses_fields("continue_final_message")) as script:
        error = said_until_it_failed(script, request("Hi", "Well,"))[1]
    assert isinstance(error, ContinuationUnsupported)
    assert "cannot continue a reply" in error.message
    assert "Regenerate it" in error.hint


@pytest.mark.parametrize(
    "act",
    [breaks_off(piece("Half a")), streams(piece("Half a"), done=False), streams(piece("Half a"))],
)
def test_an_incomplete_reply_is_kept(act: Act) -> None:
    with serving(act, says("never asked")) as script:
        text, error = said_until_it_failed(script)
    assert text == "Half a"
    assert "ended the reply early. The partial reply is saved." in error.message
    assert len(script.asked) == 1


def test_no_reply_at_all() -> None:
    assert "sent neither a reply nor an error" in error_of(breaks_off()).message


def test_a_reply_with_a_finish_reason_is_complete() -> None:
    with serving(breaks_off(piece("All"), piece("", "stop"))) as script:
        assert text_of(script) == "All"


def test_a_failure_during_a_reply() -> None:
    with serving(streams(piece("Half"), {"error": {"message": "CUDA out of memory"}})) as script:
        text, error = said_until_it_failed(script)
    assert text == "Half"
    assert error.message.endswith("failed during the reply. Server message: CUDA out of memory")


@pytest.mark.parametrize(
    "event",
    ["{", "[1]", '{"choices": 3}', "[" * 100_000, '"' + "a" * 2_000_000],
    ids=["cut", "a list", "no choices", "deep", "without end"],
)
def test_an_invalid_event(event: str) -> None:
    error = error_of(streams(piece("Half"), event))
    assert "did not send a valid OpenAI-compatible response" in error.message


def test_a_web_page_instead_of_a_stream() -> None:
    def page(handler: Handler, asked: Asked) -> None:
        handler.begin("text/html")
        handler.raw(b"<html>")
        handler.end()

    error = error_of(page)
    assert "did not send a valid OpenAI-compatible response" in error.message
    assert "text/html" in error.message


@pytest.mark.parametrize("listing", [b"<html>", b'{"data": 3}', b"[" * 100_000])
def test_an_invalid_list_of_models(listing: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "do_GET", lambda handler: handler.whole(200, listing))
    with serving() as script, pytest.raises(EngineError, match="did not send a valid OpenAI"):
        open_engine(f"m@{script.url}")


def test_an_endless_response_is_cut_off() -> None:
    def endless(handler: Handler, asked: Asked) -> None:
        handler.send_response(400)
        handler.end_headers()
        while not handler.script.ended.is_set():
            handler.wfile.write(b" " * 65536)

    with serving(endless) as script:
        error = said_until_it_failed(script)[1]
        assert script.gone.wait(PATIENCE)
    assert "is too long" in error.message


def test_a_redirect_is_not_followed() -> None:
    with serving() as other, serving(refuses(307, b"", {"Location": f"{other.url}/x"})) as script:
        error = said_until_it_failed(script)[1]
    assert "redirects" in error.message
    assert other.url in error.hint
    assert other.asked == []


def test_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATLM_OPENAI_FIRST_TOKEN_SECONDS", "0.3")
    with serving(keeps_silent) as script:
        error = said_until_it_failed(script)[1]
        assert script.gone.wait(PATIENCE)
    assert error.message.endswith("sent nothing for 0.3 seconds.")
    assert "plugins.openai.first_token_seconds" in error.hint


def test_a_server_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATLM_OPENAI_BETWEEN_SECONDS", "0.3")
    with serving(hangs(piece("Half"))) as script:
        text, error = said_until_it_failed(script)
        assert script.gone.wait(PATIENCE)
    assert text == "Half"
    assert error.message.endswith("sent nothing for 0.3 seconds. The partial reply is saved.")
    assert "plugins.openai.between_seconds" in error.hint


def test_a_slow_server_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token may take long, and all together longer."""
    monkeypatch.setenv("CHATLM_OPENAI_FIRST_TOKEN_SECONDS", "3")
    monkeypatch.setenv("CHATLM_OPENAI_BETWEEN_SECONDS", "3")

    def slow(handler: Handler, asked: Asked) -> None:
        handler.begin()
        for n in range(7):
            time.sleep(0.5)
            handler.event(piece(str(n)))
        handler.event(piece("", "stop"))
        handler.end()

    with serving(slow) as script:
        assert text_of(script) == "0123456"


def test_server_messages_cannot_control_the_terminal() -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\u202e" + "x" * 5000
    error = error_of(refuses(400, {"error": {"message": hostile}}))
    assert "\x1b" not in str(error)
    assert "\u202e" not in str(error)
    assert len(error.message) < 600


def test_half_a_character_can_be_stored() -> None:
    with serving(streams(r'{"choices":[{"delta":{"content":"a\ud83d"}}]}', piece("", "stop"))) as s:
        assert text_of(s) == "a\ufffd"


@contextmanager
def with_tls(folder: Path) -> Iterator[str]:
    """Run a server with a self-signed certificate; yield its base URL."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
         "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem",
         "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with serving() as script:
        script.tls(context)
        yield script.url.replace("http:", "https:")


def test_a_certificate_that_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with with_tls(tmp_path) as url:
        with pytest.raises(EngineError, match="is not trusted: self-signed certificate") as raised:
            open_engine(f"m@{url}")
        assert "SSL_CERT_FILE" in raised.value.hint
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        with closing(open_engine(f"m@{url}")) as engine:
            events = list(engine.stream(request("Hi")))
    assert isinstance(events[-1], Finished)


def test_https_to_a_server_that_speaks_http() -> None:
    with serving() as script, pytest.raises(EngineError, match="The secure connection") as raised:
        open_engine(f"m@{script.url.replace('http:', 'https:')}")
    assert "only http" in raised.value.hint
