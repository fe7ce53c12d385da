"""Request bodies; checked values of chunks, models, failures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from chatlm import EngineError, Request, Sampling, TokenLogprob

GO_ON = {"add_generation_prompt": False, "continue_final_message": True}
"""By which vLLM, SGLang and others go on with the last message, where it is the assistant's."""


LOGPROBS = ("logprobs", "top_logprobs")
"""By which a server is asked how likely the tokens were."""


OWN = ("stream_options", "seed", "repeat_penalty")
"""Fields that chatlm adds by itself; a server that does not take one is asked without it."""


_ALWAYS = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "max_tokens", "seed")


_OFF = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Fields that not every server knows, with the value that changes nothing: that is not sent."""


def made(model: str, request: Request, sampling: Sampling) -> dict[str, Any]:
    """The body of `POST /chat/completions`.

    Args:
        model: as the server calls it; or its adapter, which stands in the model's place.
        request: with the messages that fit.
        sampling: what is asked for; a setting that is open is left to the server.

    Raises:
        EngineError: the request has something that only works on this machine.
    """
    _check(request)
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": each.role, "content": whole(each.content)} for each in request.messages
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    settings = sampling.settings()
    values = {name: settings[name] for name in (*_ALWAYS, *_OFF)}
    body |= {
        name: value
        for name, value in values.items()
        if value is not None and value != _OFF.get(name)
    }
    if "repetition_penalty" in body:
        body["repeat_penalty"] = body["repetition_penalty"]  # llama.cpp's and Ollama's name
    if sampling.stop:
        body["stop"] = list(map(whole, sampling.stop))
    if request.logprobs is not None:
        body |= zip(LOGPROBS, (True, request.logprobs), strict=True)
    if request.messages and request.messages[-1].role == "assistant":
        body |= GO_ON
    return body


def without(body: dict[str, Any], named: Iterable[str]) -> dict[str, Any]:
    """The same in another way, after a server refused fields; as it was where there is no other.

    Args:
        body: what was refused.
        named: fields that the refusal names.
    """
    names = set(named)
    other = {name: value for name, value in body.items() if name not in names or name not in OWN}
    if "max_completion_tokens" in names and "max_tokens" in other:  # as OpenAI's own models want it
        other["max_completion_tokens"] = other.pop("max_tokens")
    return other


def _check(request: Request) -> None:
    if added := [*map(_name, request.processors), *map(_name, request.criteria)]:
        raise EngineError(
            f"{', '.join(added)} of a plugin looks at each token, which only works with models "
            "that run on this machine.",
            hint="Choose a local model, or leave the plugin out: chatlm --without NAME",
        )


def _name(added: Callable[..., Any]) -> str:
    name: str = getattr(added, "__name__", type(added).__name__)
    return name


MOST_TOKENS = 10**9
"""A count above this is none."""


LEAST_LOGPROB = -1e6
"""A log-probability below this is none."""


class NotUnderstood(ValueError):
    """It is not what the protocol says."""


@dataclass(frozen=True)
class Failure:
    """What a server says of a failure, in its own words; not yet safe to show."""

    message: str = ""
    marks: str = ""
    """Names that it has for it, and for what it is about."""


class Broken(Exception):
    """The server says, within a reply, that it failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True)
class Chunk:
    """One piece of a streamed reply."""

    text: str = ""
    thinking: bool = False
    """Whether the model wrote thoughts, which are not shown."""
    tokens: tuple[TokenLogprob, ...] = ()
    """How likely its tokens were, where that was asked for and the server says so."""
    finish: str = ""
    """Why the reply ended; empty while it goes on."""
    stop: str = ""
    """The stop string that ended it, where the server says so."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(frozen=True)
class RemoteModel:
    """One model that a server has."""

    name: str
    context: int | None = None
    """Tokens that prompt and reply may have together; None where the server does not say."""
    parent: str = ""
    """The model that it is an adapter on; empty where it is none, or that is not said."""


def parsed(text: str | bytes) -> Any:
    """JSON.

    Raises:
        NotUnderstood: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotUnderstood("it is not JSON") from error


def whole(text: str) -> str:
    """A text that can be stored and sent: half of a character that two would make is none."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def chunk(data: str) -> Chunk:
    """The data of one event.

    Raises:
        NotUnderstood: it is not a piece of a reply.
        Broken: it tells of a failure.
    """
    said = parsed(data)
    if not isinstance(said, dict):
        raise NotUnderstood("it is not an object")
    if said.get("error") or said.get("object") == "error":
        raise Broken(failure(said))
    choices = said.get("choices")
    usage = _dict(said.get("usage"))
    if not isinstance(choices, list):
        raise NotUnderstood("it has no choices")
    first = _dict(choices[0]) if choices else {}
    delta = _dict(first.get("delta"))
    stop = first.get("stop_reason") or first.get("matched_stop")
    thinking = bool(delta.get("reasoning_content") or delta.get("reasoning"))
    return Chunk(
        text=_text(delta.get("content")),
        thinking=thinking,
        tokens=() if thinking else _tokens(_dict(first.get("logprobs")).get("content")),
        finish=_text(first.get("finish_reason")),
        stop=_text(stop),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        cached_tokens=_count(_dict(usage.get("prompt_tokens_details")).get("cached_tokens")),
    )


def models(content: bytes) -> list[RemoteModel]:
    """The answer of `GET /models`, each model once, in the server's order.

    Raises:
        NotUnderstood: it is no list of models.
    """
    said = parsed(content)
    rows = said.get("data") if isinstance(said, dict) else None
    if not isinstance(rows, list):
        raise NotUnderstood("it is no list of models")
    found: dict[str, RemoteModel] = {}
    for row in map(_dict, rows):
        if name := _text(row.get("id")).strip():
            found.setdefault(name, RemoteModel(name, _context(row), _text(row.get("parent"))))
    return [replace(each, context=each.context or _parents(each, found)) for each in found.values()]


def failure(said: Any) -> Failure:
    """What an error object says: OpenAI's, FastAPI's, or a plain text."""
    error = _dict(said).get("error", _dict(said).get("detail", said))
    if isinstance(error, str):
        return Failure(whole(error))
    marks = " ".join(_text(_dict(error).get(name)) for name in ("code", "param", "type"))
    told = _text(_dict(error).get("message"))
    return Failure(told or (whole(json.dumps(error)) if error else ""), marks.strip())


def _tokens(rows: Any) -> tuple[TokenLogprob, ...]:
    """Tokens with those that might have come in their place."""
    return tuple(
        TokenLogprob(_bytes(row), row["logprob"], tuple(_likeliest(row.get("top_logprobs"))))
        for row in _with_logprob(rows)
    )


def _likeliest(rows: Any) -> Iterator[TokenLogprob]:
    return (TokenLogprob(_bytes(row), row["logprob"]) for row in _with_logprob(rows))


def _with_logprob(rows: Any) -> Iterator[dict[str, Any]]:
    """The rows that have a log-probability."""
    for row in map(_dict, rows if isinstance(rows, list) else []):
        said = row.get("logprob")
        if isinstance(said, int | float) and LEAST_LOGPROB <= said <= 0 and said is not False:
            yield row


def _bytes(row: dict[str, Any]) -> bytes:
    """What a token stands for; where the server gives no bytes, its text."""
    said = row.get("bytes")
    try:
        return bytes(said) if isinstance(said, list) else _text(row.get("token")).encode()
    except (TypeError, ValueError) as error:
        raise NotUnderstood("the bytes of a token are none") from error


def _context(row: dict[str, Any]) -> int | None:
    names = ("max_model_len", "context_length", "context_window", "max_context_length")
    said = [_count(row.get(name)) for name in names]
    said.append(_count(_dict(row.get("meta")).get("n_ctx")))  # llama.cpp's
    return next((count for count in said if count), None)


def _parents(adapter: RemoteModel, found: Mapping[str, RemoteModel]) -> int | None:
    """The context of the model that one is an adapter on; vLLM says it of that one only."""
    return found[adapter.parent].context if adapter.parent in found else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return whole(value) if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None
