"""Parsing of `openai:` names, keys and responses of servers."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm import UsageError
from chatlm_openai import protocol
from chatlm_openai.endpoints import Endpoint, find_endpoint, split_model_name
from chatlm_openai.engine import ESTIMATED_TOKENS
from chatlm_openai.settings import Settings

WORK = Endpoint("http://gpu:8000/v1", "work", "WORK_KEY")
HOME = Endpoint("http://127.0.0.1:1234/v1", "home")


@pytest.mark.parametrize(
    ("name", "model", "endpoint"),
    [
        ("m@http://127.0.0.1:8000/v1", "m", Endpoint("http://127.0.0.1:8000/v1")),
        ("m@https://[::1]:8000/v1/", "m", Endpoint("https://[::1]:8000/v1")),
        ("org/model:free@HTTP://gpu/v1", "org/model:free", Endpoint("HTTP://gpu/v1")),
        ("@cf/meta/llama@http://gpu/v1", "@cf/meta/llama", Endpoint("http://gpu/v1")),
        ("org/model@home", "org/model", HOME),
        ("m@work", "m", WORK),
        ("m", "m", WORK),
        ("@cf/meta/llama", "@cf/meta/llama", WORK),
        ("claude@2@home", "claude@2", HOME),
    ],
)
def test_a_model_name_is_split(name: str, model: str, endpoint: Endpoint) -> None:
    assert split_model_name(name, [WORK, HOME]) == (model, endpoint)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("", "does not name a model"),
        ("@http://gpu/v1", "does not name a model"),
        ("http://gpu/v1", "does not name a model"),
        ("m@hom", "no endpoint 'hom'"),
        ("m@http://", "starts with http"),
        ("m@http://gpu:port/v1", "starts with http"),
        ("m@http://person:secret@gpu/v1", "cannot contain a password"),
        ("m@http://gpu/v1?api-key=secret", "cannot contain a password"),
        ("m@http://gpu/v1 \x1b[31m", "starts with http"),
    ],
)
def test_an_invalid_model_name_is_refused(name: str, what: str) -> None:
    with pytest.raises(UsageError, match=what) as raised:
        split_model_name(name, [WORK, HOME])
    assert raised.value.hint
    assert "secret" not in str(raised.value)
    assert "\x1b" not in str(raised.value)


def test_the_nearest_endpoint_is_suggested() -> None:
    with pytest.raises(UsageError) as raised:
        find_endpoint("wrok", [WORK, HOME])
    assert raised.value.hint == "Did you mean work?"
    with pytest.raises(UsageError, match="No endpoint is configured"):
        find_endpoint("", [])


def test_endpoints_in_the_settings() -> None:
    settings = Settings(("work http://gpu:8000/v1 WORK_KEY", "home http://127.0.0.1:1234/v1/"))
    assert settings.parse_endpoints() == [WORK, HOME]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"endpoints": ("work",)}, "is written"),
        ({"endpoints": ("a b c d",)}, "is written"),
        ({"endpoints": ("work ftp://gpu",)}, "starts with http"),
        ({"endpoints": ("a@b http://gpu",)}, "letters, digits"),
        ({"endpoints": ("work http://gpu sk-secret",)}, "not the key"),
        ({"endpoints": ("a http://gpu", "a http://cpu")}, "two endpoints are called a"),
        ({"context": 1}, "64 or more"),
        ({"in_flight": 0}, "1 to 256"),
        ({"between_seconds": 0.0}, "between_seconds must be above 0"),
        ({"patience_seconds": -1.0}, "0 or more"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what) as raised:
        Settings(**settings)
    assert "secret" not in str(raised.value)


def test_a_key_comes_from_the_environment_or_a_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trouble(Exception):
        pass

    def kept(service: str, name: str) -> str | None:
        if name == "locked":
            raise Trouble
        return {("chatlm", "home"): "from-keyring"}.get((service, name))

    monkeypatch.setitem(sys.modules, "keyring", None)
    monkeypatch.delenv("WORK_KEY", raising=False)
    assert HOME.key() == ""
    keyring = ModuleType("keyring")
    keyring.__dict__.update(get_password=kept, errors=SimpleNamespace(KeyringError=Trouble))
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    monkeypatch.setitem(sys.modules, "keyring.errors", keyring.errors)
    assert HOME.key() == "from-keyring"
    assert Endpoint("http://gpu", "locked").key() == ""
    assert Endpoint("http://gpu").key() == ""
    assert WORK.key() == ""
    monkeypatch.setenv("WORK_KEY", " from-environment\n")
    assert WORK.key() == "from-environment"


KEYS = st.sampled_from(
    ["choices", "delta", "content", "finish_reason", "usage", "prompt_tokens", "error", "message",
     "data", "id", "meta", "n_ctx", "prompt_tokens_details", "cached_tokens", "detail", "parent"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_parsed_values_are_valid_whatever_a_server_sends(said: Any) -> None:
    text = json.dumps(said)
    try:
        chunk = protocol.parse_chunk(text)
    except (protocol.ProtocolError, protocol.StreamFailed):
        pass
    else:
        assert all(
            isinstance(each, str) for each in (chunk.text, chunk.finish_reason, chunk.matched_stop)
        )
        chunk.text.encode()
        counts = (chunk.prompt_tokens, chunk.completion_tokens, chunk.cached_tokens)
        assert all(count is None or count >= 0 for count in counts)
    try:
        models = protocol.parse_models(text.encode())
    except protocol.ProtocolError:
        pass
    else:
        assert all(model.name and model.name.encode() for model in models)
    failure = protocol.parse_failure(said)
    (failure.message + failure.codes).encode()


@given(st.text())
def test_the_pieces_of_a_text_are_the_text(text: str) -> None:
    assert "".join(ESTIMATED_TOKENS.split(text)) == text
