"""Parsing a request's body and a model's name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm import OfferedTemplate, RenderedTemplate, Sampling, Setup
from chatlm_serve.errors import ApiError
from chatlm_serve.generation_request import ClientConversation, ClientTurn, GenerationRequest
from chatlm_serve.http_guard import is_loopback, names_loopback
from chatlm_serve.model_names import (
    ServedSetups,
    find_chat_model,
    model_names,
    setup_for_parts,
    sort_setups,
    split_name,
)
from chatlm_serve.protocols.openai_chat import KNOWN_FIELDS, parse_chat_request

USER = {"role": "user", "content": "Hi"}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER]} | fields


def parse(**fields: Any) -> GenerationRequest:
    return parse_chat_request(body(**fields))[0]


def refusal_of(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    assert caught.value.status == 400
    return caught.value


def test_all_that_is_supported_is_read() -> None:
    params, form = parse_chat_request(
        body(
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "One"}]},
                {"role": "user", "content": "more"},
                {"role": "assistant", "content": "Yes?", "tool_calls": None},
                {"role": "user", "content": "Two"},
            ],
            temperature=0,
            top_p=0.5,
            frequency_penalty=1,
            presence_penalty=-1.0,
            top_k=4,
            seed=7,
            max_completion_tokens=9,
            stop=["a", "b"],
            logprobs=True,
            top_logprobs=3,
            stream=True,
            stream_options={"include_usage": True},
            n=1,
            user="someone",
            response_format={"type": "text"},
            tools=None,
            metadata={"a": "b"},
            service_tier="auto",
            prompt_cache_key="x",
            store=False,
        )
    )
    conversation = params.conversation
    assert isinstance(conversation, ClientConversation)
    (earlier,) = conversation.history
    assert conversation.system == "Be brief."
    assert (earlier.question, earlier.reply[0].text) == ("One\n\nmore", "Yes?")
    assert (conversation.turn, params.stream) == (ClientTurn("Two"), True)
    assert form.end().count("usage") == 1
    assert params.logprobs == 3
    assert params.sampling == Sampling(
        temperature=0, top_p=0.5, frequency_penalty=1, presence_penalty=-1.0, top_k=4, seed=7,
        max_tokens=9, stop=("a", "b"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{"name": "f"}]),
        ("store", True),
        ("temprature", 1),
        ("audio", {}),
    ],
)
def test_what_is_not_supported_is_named(field: str, value: Any) -> None:
    error = refusal_of(**{field: value})
    assert (error.param, error.code) == (field, "unsupported_parameter")
    assert field in error.message


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ({"type": "json_object"}, {"type": "object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}},
            {"type": "integer"},
        ),
    ],
)
def test_a_response_format_is_a_schema(value: Any, schema: Any) -> None:
    params = parse(response_format=value)
    assert json.loads(params.sampling.schema or "") == schema


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({"type": "xml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_object", "schema": {}}, "response_format.schema"),
        (
            {"type": "json_schema", "json_schema": {"schema": {"type": 5}}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_an_invalid_response_format_is_named(value: Any, param: str) -> None:
    assert refusal_of(response_format=value).param == param


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("temperature", 9, "temperature"),
        ("temperature", float("nan"), "temperature"),
        ("top_p", "high", "top_p"),
        ("seed", 1.5, "seed"),
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", True, "max_tokens"),
        ("n", 9, "n"),
        ("n", True, "n"),
        ("max_completion_tokens", "9", "max_completion_tokens"),
        ("stop", "", "stop"),
        ("stop", ["x"] * 17, "stop"),
        ("stop", 5, "stop"),
        ("logprobs", 3, "logprobs"),
        ("top_logprobs", 3, "top_logprobs"),
        ("stream", "yes", "stream"),
        ("stream_options", {"include_usage": True}, "stream_options"),
        ("model", 4, "model"),
        ("model", None, "model"),
        ("messages", [], "messages"),
        ("messages", "Hi", "messages"),
        ("messages", [USER] * 1001, "messages"),
        ("messages", ["Hi"], "messages[0]"),
        ("messages", [{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
        ("messages", [{"role": "function", "content": "x"}], "messages[0].role"),
        ("messages", [{"role": "user", "content": None}], "messages[0].content"),
        ("messages", [{**USER, "name": "Bob"}], "messages[0].name"),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}],
         "messages[0].content[0].image_url"),
        ("messages", [{"role": "user", "content": [{"type": "input_audio"}]}],
         "messages[0].content[0]"),
        ("messages", [{"role": "system", "content": "x"}], "messages"),
        ("messages", [USER, {"role": "system", "content": "x"}, USER], "messages"),
        ("messages", [USER, {"role": "assistant", "content": "x"}], "messages"),
        ("messages", [{"role": "assistant", "content": "x"}, USER], "messages"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(field: str, value: Any, param: str) -> None:
    error = refusal_of(**{field: value})
    assert error.param == param
    assert error.message.startswith(param)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_logprobs_are_asked_for_as_in_openais_api(fields: Any, wanted: int | None) -> None:
    assert parse(**fields).logprobs == wanted


@pytest.mark.parametrize("number", [-1, 21, True, "3", 1.0])
def test_an_invalid_number_of_top_logprobs_is_refused(number: Any) -> None:
    error = refusal_of(logprobs=True, top_logprobs=number)
    assert error.param == "top_logprobs"
    assert "must be" in error.message


def test_only_one_limit_of_tokens_is_taken() -> None:
    assert refusal_of(max_tokens=1, max_completion_tokens=1).param == "max_tokens"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(KNOWN_FIELDS)), JSON))
def test_any_body_is_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        parse_chat_request(fields)
    except ApiError as error:
        assert error.status == 400


OFFERED = ServedSetups(
    {
        "pirate": Setup(adapter="pirate"),
        "poet": Setup(adapter="poet"),
        "manual": Setup(plugin_data={"rag": {"index": "manual"}}),
        "notes": Setup(plugin_data={"rag": {"index": "notes"}}),
        "calm": Setup(sampling=Sampling(temperature=0.1)),
    },
    {"vote": "it takes long"},
)


def setup_for_model(name: str, served: str, offered: ServedSetups) -> Setup:
    model, parts = split_name(name, served)
    if model != served:
        model = find_chat_model(model, served)
    return setup_for_parts(name, model, parts, offered)


def test_a_name_joins_set_ups() -> None:
    assert setup_for_model("a+b", "a+b", OFFERED) == Setup()
    assert setup_for_model("m+pirate+calm+manual", "m", OFFERED) == Setup(
        adapter="pirate",
        sampling=Sampling(temperature=0.1),
        plugin_data={"rag": {"index": "manual"}},
    )
    for name in model_names("m", OFFERED.usable):
        setup_for_model(name, "m", OFFERED)


@pytest.mark.parametrize("name", ["", "n", "m+", "m+nobody", "mm", "m pirate", "pirate", "+pirate"])
def test_an_unknown_name_is_not_found(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        setup_for_model(name, "m", OFFERED)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_a_set_up_that_cannot_be_served_is_refused_with_the_reason() -> None:
    with pytest.raises(ApiError, match=r"vote cannot be served: it takes long\.") as caught:
        setup_for_model("m+vote", "m", OFFERED)
    assert (caught.value.status, caught.value.param) == (400, "model")


def test_set_ups_with_a_method_or_tools_cannot_be_served() -> None:
    def template(name: str, **facts: Any) -> OfferedTemplate:
        return OfferedTemplate(
            name, "plugin", lambda values, text, about: RenderedTemplate(**facts)
        )

    templates = {
        "think": template("think", sampling=Sampling(method="chain")),
        "react": template("react", tools=("calculator", "python")),
        "plain": template("plain", system="Be brief."),
    }
    setups = {name: Setup(template=name) for name in templates}
    setups |= {"vote": Setup(sampling=Sampling(method="consensus:9")), "other": Setup(model="n")}
    sorted_out = sort_setups(setups, templates)
    assert set(sorted_out.usable) == {"plain"}
    assert "method chain" in sorted_out.refused["think"]
    assert "method consensus" in sorted_out.refused["vote"]
    assert "calculator, python" in sorted_out.refused["react"]
    assert "other" not in sorted_out.refused


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(ApiError, match=r"Did you mean m\+pirate"):
        setup_for_model("m+pirat", "m", OFFERED)


@pytest.mark.parametrize("name", ["m+pirate+poet", "m+manual+notes", "m+pirate+pirate"])
def test_parts_that_exclude_each_other_are_refused(name: str) -> None:
    with pytest.raises(ApiError, match="cannot be combined") as caught:
        setup_for_model(name, "m", OFFERED)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("192.168.1.5", False), ("example.org", False), ("", False),
    ],
)  # fmt: skip
def test_which_addresses_only_this_machine_reaches(host: str, own: bool) -> None:
    assert is_loopback(host) is own


@pytest.mark.parametrize(
    ("header", "own"),
    [
        ("127.0.0.1:8000", True), ("localhost", True), ("LOCALHOST:1", True), ("[::1]:8000", True),
        ("evil.example", False), ("127.0.0.1.evil.example", False), ("", False), ("[", False),
        ("localhost@evil.example", False),
    ],
)  # fmt: skip
def test_which_host_headers_mean_this_machine(header: str, own: bool) -> None:
    assert names_loopback(header) is own


def test_a_logit_bias_is_taken_in_openais_form_and_llama_cpps() -> None:
    for form in ({"15043": -100, "7": 1.5}, [[15043, -100], [7, 1.5]]):
        assert parse(logit_bias=form).sampling.logit_bias == (
            (15043, -100),
            (7, 1.5),
        )
    assert parse(logit_bias={}).sampling.logit_bias == ()
    assert parse(logit_bias=[["cat", 5]]).sampling.logit_bias == (("cat", 5),)


@pytest.mark.parametrize("value", [{"5": 101}, {"5": "x"}, [[5, -101]], "5", 5, [5]])
def test_an_invalid_logit_bias_is_refused_with_the_range(value: Any) -> None:
    error = refusal_of(logit_bias=value)
    assert error.param == "logit_bias"
    assert "from -100 to 100" in error.message


NEWER = {
    "top_n_sigma": 1.5, "xtc_probability": 0.5, "xtc_threshold": 0.2,
    "dry_multiplier": 0.8, "dry_base": 1.5, "dry_allowed_length": 3,
}  # fmt: skip


def test_newer_samplers_are_taken_and_checked() -> None:
    sampling = parse(**NEWER).sampling
    assert {name: sampling.settings()[name] for name in NEWER} == NEWER
    for name in NEWER:
        error = refusal_of(**{name: -1})
        assert error.param == name
        assert "from" in error.message
