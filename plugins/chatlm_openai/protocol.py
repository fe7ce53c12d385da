"""Request bodies; checked values of chunks, models, failures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from chatlm import EngineError, Request, Sampling, TokenLogprob

CONTINUE_FIELDS = {"add_generation_prompt": False, "continue_final_message": True}
"""By which vLLM, SGLang and others go on with the last message, where it is the assistant's."""


LOGPROB_FIELDS = ("logprobs", "top_logprobs")
"""By which a server is asked how likely the tokens were."""


OPTIONAL_FIELDS = ("stream_options", "seed", "repeat_penalty")
"""Fields that chatlm adds by itself; a server that does not take one is asked without it."""


_STANDARD_FIELDS = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "max_tokens",
    "seed",
)


_NEUTRAL_VALUES = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Fields that not every server knows, with the value that changes nothing: that is not sent."""


def build_body(model: str, request: Request, sampling: Sampling) -> dict[str, Any]:
    """The body of `POST /chat/completions`.

    Args:
        model: as the server calls it; or its adapter, which stands in the model's place.
        request: with the messages that fit.
        sampling: what is asked for; a setting that is open is left to the server.

    Raises:
        EngineError: the request has something that only works on this machine.
    """
    _check_supported(request)
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": each.role, "content": replace_surrogates(each.text)}
            for each in request.messages
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    settings = sampling.settings()
    values = {name: settings[name] for name in (*_STANDARD_FIELDS, *_NEUTRAL_VALUES)}
    body |= {
        name: value
        for name, value in values.items()
        if value is not None and value != _NEUTRAL_VALUES.get(name)
    }
    if "repetition_penalty" in body:
        body["repeat_penalty"] = body["repetition_penalty"]  # llama.cpp's and Ollama's name
    if sampling.stop:
        body["stop"] = list(map(replace_surrogates, sampling.stop))
    if request.logprobs is not None:
        body |= zip(LOGPROB_FIELDS, (True, request.logprobs), strict=True)
    if request.messages and request.messages[-1].role == "assistant":
        body |= CONTINUE_FIELDS
    return body


def drop_fields(body: dict[str, Any], field_names: Iterable[str]) -> dict[str, Any]:
    """The same in another way, after a server refused fields; as it was where there is no other.

    Args:
        body: what was refused.
        field_names: fields that the refusal names.
    """
    names = set(field_names)
    other = {
        name: value
        for name, value in body.items()
        if name not in names or name not in OPTIONAL_FIELDS
    }
    if "max_completion_tokens" in names and "max_tokens" in other:  # as OpenAI's own models want it
        other["max_completion_tokens"] = other.pop("max_tokens")
    return other


def _check_supported(request: Request) -> None:
    if added := [
        *map(_callable_name, request.logits_processors),
        *map(_callable_name, request.stopping_criteria),
    ]:
        raise EngineError(
            f"{', '.join(added)} of a plugin looks at each token, which only works with models "
            "that run on this machine.",
            hint="Choose a local model, or leave the plugin out: chatlm --without NAME",
        )


def _callable_name(function: Callable[..., Any]) -> str:
    name: str = getattr(function, "__name__", type(function).__name__)
    return name


MAX_TOKEN_COUNT = 10**9
"""A count above this is none."""


MIN_LOGPROB = -1e6
"""A log-probability below this is none."""


class ProtocolError(ValueError):
    """It is not what the protocol says."""


@dataclass(frozen=True)
class ServerFailure:
    """What a server says of a failure, in its own words; not yet safe to show."""

    message: str = ""
    codes: str = ""
    """Names that it has for it, and for what it is about."""


class StreamFailed(Exception):
    """The server says, within a reply, that it failed."""

    def __init__(self, failure: ServerFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True)
class ChatCompletionChunk:
    """One piece of a streamed reply."""

    text: str = ""
    has_reasoning: bool = False
    """Whether the model wrote thoughts, which are not shown."""
    token_logprobs: tuple[TokenLogprob, ...] = ()
    """How likely its tokens were, where that was asked for and the server says so."""
    finish_reason: str = ""
    """Why the reply ended; empty while it goes on."""
    matched_stop: str = ""
    """The stop string that ended it, where the server says so."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(frozen=True)
class RemoteModel:
    """One model that a server has."""

    name: str
    context_length: int | None = None
    """Tokens that prompt and reply may have together; None where the server does not say."""
    parent: str = ""
    """The model that it is an adapter on; empty where it is none, or that is not said."""


def parse_json(text: str | bytes) -> Any:
    """JSON.

    Raises:
        NotUnderstood: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("it is not JSON") from error


def replace_surrogates(text: str) -> str:
    """A text that can be stored and sent: half of a character that two would make is none."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parse_chunk(data: str) -> ChatCompletionChunk:
    """The data of one event.

    Raises:
        NotUnderstood: it is not a piece of a reply.
        Broken: it tells of a failure.
    """
    said = parse_json(data)
    if not isinstance(said, dict):
        raise ProtocolError("it is not an object")
    if said.get("error") or said.get("object") == "error":
        raise StreamFailed(parse_failure(said))
    choices = said.get("choices")
    usage = _as_dict(said.get("usage"))
    if not isinstance(choices, list):
        raise ProtocolError("it has no choices")
    first = _as_dict(choices[0]) if choices else {}
    delta = _as_dict(first.get("delta"))
    stop = first.get("stop_reason") or first.get("matched_stop")
    thinking = bool(delta.get("reasoning_content") or delta.get("reasoning"))
    return ChatCompletionChunk(
        text=_as_text(delta.get("content")),
        has_reasoning=thinking,
        token_logprobs=()
        if thinking
        else _token_logprobs(_as_dict(first.get("logprobs")).get("content")),
        finish_reason=_as_text(first.get("finish_reason")),
        matched_stop=_as_text(stop),
        prompt_tokens=_as_count(usage.get("prompt_tokens")),
        completion_tokens=_as_count(usage.get("completion_tokens")),
        cached_tokens=_as_count(_as_dict(usage.get("prompt_tokens_details")).get("cached_tokens")),
    )


def parse_models(content: bytes) -> list[RemoteModel]:
    """The answer of `GET /models`, each model once, in the server's order.

    Raises:
        NotUnderstood: it is no list of models.
    """
    said = parse_json(content)
    rows = said.get("data") if isinstance(said, dict) else None
    if not isinstance(rows, list):
        raise ProtocolError("it is no list of models")
    found: dict[str, RemoteModel] = {}
    for row in map(_as_dict, rows):
        if name := _as_text(row.get("id")).strip():
            found.setdefault(
                name, RemoteModel(name, _context_length(row), _as_text(row.get("parent")))
            )
    return [
        replace(each, context_length=each.context_length or _base_model_context(each, found))
        for each in found.values()
    ]


def parse_failure(value: Any) -> ServerFailure:
    """What an error object says: OpenAI's, FastAPI's, or a plain text."""
    error = _as_dict(value).get("error", _as_dict(value).get("detail", value))
    if isinstance(error, str):
        return ServerFailure(replace_surrogates(error))
    marks = " ".join(_as_text(_as_dict(error).get(name)) for name in ("code", "param", "type"))
    told = _as_text(_as_dict(error).get("message"))
    return ServerFailure(
        told or (replace_surrogates(json.dumps(error)) if error else ""), marks.strip()
    )


def _token_logprobs(rows: Any) -> tuple[TokenLogprob, ...]:
    """Tokens with those that might have come in their place."""
    return tuple(
        TokenLogprob(
            _token_bytes(row), row["logprob"], tuple(_top_logprobs(row.get("top_logprobs")))
        )
        for row in _rows_with_logprob(rows)
    )


def _top_logprobs(rows: Any) -> Iterator[TokenLogprob]:
    return (TokenLogprob(_token_bytes(row), row["logprob"]) for row in _rows_with_logprob(rows))


def _rows_with_logprob(rows: Any) -> Iterator[dict[str, Any]]:
    """The rows that have a log-probability."""
    for row in map(_as_dict, rows if isinstance(rows, list) else []):
        said = row.get("logprob")
        if isinstance(said, int | float) and MIN_LOGPROB <= said <= 0 and said is not False:
            yield row


def _token_bytes(row: dict[str, Any]) -> bytes:
    """What a token stands for; where the server gives no bytes, its text."""
    said = row.get("bytes")
    try:
        return bytes(said) if isinstance(said, list) else _as_text(row.get("token")).encode()
    except (TypeError, ValueError) as error:
        raise ProtocolError("the bytes of a token are none") from error


def _context_length(row: dict[str, Any]) -> int | None:
    names = ("max_model_len", "context_length", "context_window", "max_context_length")
    said = [_as_count(row.get(name)) for name in names]
    said.append(_as_count(_as_dict(row.get("meta")).get("n_ctx")))  # llama.cpp's
    return next((count for count in said if count), None)


def _base_model_context(adapter: RemoteModel, found: Mapping[str, RemoteModel]) -> int | None:
    """The context of the model that one is an adapter on; vLLM says it of that one only."""
    return found[adapter.parent].context_length if adapter.parent in found else None


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _as_text(value: Any) -> str:
    return replace_surrogates(value) if isinstance(value, str) else ""


def _as_count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_TOKEN_COUNT else None
