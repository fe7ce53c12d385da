"""OpenAI's protocol: build request bodies, and parse chunks, lists of models and errors."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from chatlm import (
    EngineError,
    Image,
    LogitBias,
    Message,
    Part,
    Reasoning,
    Request,
    Sampling,
    StopReason,
    Text,
    TokenLogprob,
    ToolCall,
    ToolResult,
    dump_json,
)

CONTINUE_FIELDS = {"add_generation_prompt": False, "continue_final_message": True}
"""Fields that make vLLM, SGLang and others continue the last message if it is the assistant's."""


LOGPROB_FIELDS = ("logprobs", "top_logprobs")


OPTIONAL_FIELDS = ("stream_options", "seed", "repeat_penalty")
"""Fields that chatlm adds by itself and drops if a server rejects them."""


THINKING_FIELDS = ("reasoning_effort", "chat_template_kwargs")
"""Both switch thinking: OpenAI's field, and that of vLLM, SGLang and llama.cpp. One is dropped if a
server rejects it and the other is left."""


_STANDARD_FIELDS = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "max_tokens",
    "seed",
)


_NEUTRAL_VALUES = {
    "top_k": 0,
    "min_p": 0.0,
    "top_n_sigma": 0.0,
    "xtc_probability": 0.0,
    "xtc_threshold": None,
    "repetition_penalty": 1.0,
    "dry_multiplier": 0.0,
    "dry_base": None,
    "dry_allowed_length": None,
}
"""Fields that not every server supports, with their neutral value, which is never sent."""


def build_body(
    model: str, request: Request, sampling: Sampling, *, sends_thoughts: bool = False
) -> dict[str, Any]:
    """Build the body of `POST /chat/completions`.

    Args:
        model: the server's name for the model or adapter.
        request: with the messages that fit the context window.
        sampling: values that are None are left to the server.
        sends_thoughts: whether the server wants the thoughts of earlier replies.

    Raises:
        EngineError: the request needs something that only works with local models.
        UsageError, StoreError: the bytes of an image are not here.
    """
    _check_supported(request)
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            value
            for message in request.messages
            for value in _message_values(message, sends_thoughts, request)
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
        body["repeat_penalty"] = body["repetition_penalty"]  # the name in llama.cpp and Ollama
    if sampling.thinking not in (None, "auto"):
        thinks = sampling.thinking != "off"
        body["reasoning_effort"] = sampling.thinking if thinks else "none"
        body["chat_template_kwargs"] = {"enable_thinking": thinks}
    if sampling.logit_bias:
        body["logit_bias"] = _logit_bias(sampling.logit_bias)
    if request.schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": dict(request.schema)},
        }
    if request.tools:
        body["tools"] = [tool.to_dict() for tool in request.tools]
        body["tool_choice"] = (
            request.tool_choice
            if request.tool_choice in TOOL_CHOICES
            else {"type": "function", "function": {"name": request.tool_choice}}
        )
        body["parallel_tool_calls"] = request.parallel_tool_calls
    if sampling.stop:
        body["stop"] = list(map(replace_surrogates, sampling.stop))
    if request.logprobs is not None:
        body |= zip(LOGPROB_FIELDS, (True, request.logprobs), strict=True)
    if request.messages and request.messages[-1].role == "assistant":
        body |= CONTINUE_FIELDS
    return body


def _logit_bias(biases: LogitBias) -> dict[str, float]:
    """Return the biases by token id; a token that is named several times gets the sum.

    Raises:
        EngineError: a token is given as text, which only its model's tokenizer can turn into ids.
    """
    by_id: dict[str, float] = {}
    for token, bias in biases:
        if not isinstance(token, int):
            raise EngineError(
                f"logit_bias has the text {dump_json(token)[:60]}; a server takes token ids only.",
                hint="Give the ids of its tokens instead, or use a local model.",
            )
        by_id[str(token)] = by_id.get(str(token), 0.0) + bias
    return by_id


TOOL_CHOICES = ("auto", "none", "required")
"""Values of `Request.tool_choice` that are no tool's name."""


def _data_url(image: Image, request: Request) -> str:
    encoded = base64.b64encode(request.image_bytes(image)).decode()
    return f"data:{image.media_type};base64,{encoded}"


def _message_values(
    message: Message, sends_thoughts: bool, request: Request
) -> Iterator[dict[str, Any]]:
    """Yield a message as the server takes it; each result of a tool is a message of its own.

    OpenAI's protocol has no images in results, so they follow in a message of the user.
    """
    if message.role != "tool":
        yield _message_value(message, sends_thoughts, request)
        return
    images: list[Part] = []
    tool = ""
    for part in message.parts:
        if isinstance(part, ToolResult):
            tool = part.name
            yield {
                "role": "tool",
                "tool_call_id": part.call_id,
                "content": replace_surrogates(part.text),
            }
        elif isinstance(part, Image):
            images += [Text(f"Image returned by the tool {tool}:"), part]
    if images:
        yield _message_value(Message("user", images), sends_thoughts, request)


def _message_value(message: Message, sends_thoughts: bool, request: Request) -> dict[str, Any]:
    value: dict[str, Any] = {
        "role": message.role,
        "content": replace_surrogates(message.text),
    }
    if any(isinstance(part, Image) for part in message.parts):
        value["content"] = [
            {"type": "text", "text": replace_surrogates(part.text)}
            if isinstance(part, Text)
            else {"type": "image_url", "image_url": {"url": _data_url(part, request)}}
            for part in message.parts
            if isinstance(part, Text | Image)
        ]
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    if calls:
        value["content"] = value["content"] or None
        value["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": replace_surrogates(call.arguments),
                },
            }
            for call in calls
        ]
    thoughts = "".join(part.text for part in message.parts if isinstance(part, Reasoning))
    if sends_thoughts and thoughts:
        value["reasoning_content"] = replace_surrogates(thoughts)
    return value


def drop_fields(body: dict[str, Any], field_names: Iterable[str]) -> dict[str, Any]:
    """Return the body without rejected fields that are optional; unchanged if there are none.

    Args:
        body: the body of a request.
        field_names: fields that the server rejected.
    """
    names = set(field_names)
    optional = set(OPTIONAL_FIELDS)
    if any(name in body and name not in names for name in THINKING_FIELDS):
        optional.update(THINKING_FIELDS)
    reduced = {
        name: value for name, value in body.items() if name not in names or name not in optional
    }
    if "max_completion_tokens" in names and "max_tokens" in reduced:  # for OpenAI's own models
        reduced["max_completion_tokens"] = reduced.pop("max_tokens")
    return reduced


def _check_supported(request: Request) -> None:
    if method := request.sampling.reply_method:
        raise EngineError(
            f"The method {method[0]} cannot be used here.",
            hint="Ask for a single reply, or set method to off.",
        )
    if functions := [
        *map(_callable_name, request.logits_processors),
        *map(_callable_name, request.stopping_criteria),
    ]:
        raise EngineError(
            f"A plugin uses {', '.join(functions)}, which works with local models only: a server "
            "does not send the logits of each token.",
            hint="Choose a local model, or start without the plugin: chatlm --without NAME",
        )


def _callable_name(function: Callable[..., Any]) -> str:
    name: str = getattr(function, "__name__", type(function).__name__)
    return name


MAX_TOKEN_COUNT = 10**9
"""Larger counts are invalid."""


MIN_LOGPROB = -1e6
"""Lower log-probabilities are invalid."""


class ProtocolError(ValueError):
    """A response that does not follow the protocol."""


@dataclass(frozen=True)
class ServerFailure:
    """An error reported by a server, in its own words; not yet safe to show."""

    message: str = ""
    codes: str = ""
    """Its code, parameter and type, separated by spaces."""


class StreamFailed(Exception):
    """An error that a server reports in the middle of a reply."""

    def __init__(self, failure: ServerFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


STOP_REASONS: Mapping[str, StopReason] = {
    **dict.fromkeys(("stop", "end_turn", "complete", "completed"), StopReason.END),
    **dict.fromkeys(("eos", "eos_token", "stop_sequence"), StopReason.END),
    **dict.fromkeys(("length", "max_tokens"), StopReason.LENGTH),
    "model_length": StopReason.CONTEXT_FULL,
    **dict.fromkeys(("tool_calls", "tool_use", "function_call"), StopReason.TOOL_CALLS),
    "refusal": StopReason.REFUSAL,
    **dict.fromkeys(
        ("content_filter", "safety", "recitation", "blocklist", "spii"), StopReason.CONTENT_FILTER
    ),
    "prohibited_content": StopReason.CONTENT_FILTER,
}
"""By `finish_reason` in lower case: OpenAI's own words, which most servers use, and those of TGI,
Mistral, Anthropic, Gemini and Cohere."""


FAILED_REASONS = frozenset({"error", "abort", "aborted", "insufficient_system_resource"})
"""A `finish_reason` in lower case that means that the server failed: OpenRouter, vLLM, SGLang,
DeepSeek."""


@dataclass(frozen=True)
class ToolCallFragment:
    """A part of a tool call; the name and id come first, the arguments bit by bit."""

    index: int
    """Tells the calls of one reply apart."""
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ChatCompletionChunk:
    """One chunk of a streamed reply."""

    text: str = ""
    reasoning: str = ""
    """What the model thinks before it answers."""
    refusal: str = ""
    """Why the model refuses to answer."""
    tool_calls: tuple[ToolCallFragment, ...] = ()
    token_logprobs: tuple[TokenLogprob, ...] = ()
    """Log-probabilities of its tokens, if they were requested and the server sends them."""
    finish_reason: str = ""
    """Why the reply ended; empty before its end."""
    matched_stop: str = ""
    """The stop string that ended the reply, if the server reports it."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None

    @property
    def has_content(self) -> bool:
        """Whether it has anything that the model generated."""
        return bool(self.text or self.reasoning or self.refusal or self.tool_calls)


@dataclass(frozen=True)
class RemoteModel:
    """One model in a server's list."""

    name: str
    context_length: int | None = None
    """Context window in tokens; None if the server does not report it."""
    parent: str = ""
    """The base model of an adapter; empty if it is not an adapter, or the server does not say."""
    reads_images: bool = False
    """Whether the server says that it takes images."""


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ProtocolError: it is invalid.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("it is not JSON") from error


def replace_surrogates(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates, which cannot be stored or sent."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parse_chunk(data: str) -> ChatCompletionChunk:
    """Parse the data of one server-sent event.

    Raises:
        ProtocolError: it is not a chunk of a reply.
        StreamFailed: it reports an error.
    """
    values = parse_json(data)
    if not isinstance(values, dict):
        raise ProtocolError("it is not an object")
    if values.get("error") or values.get("object") == "error":
        raise StreamFailed(parse_failure(values))
    choices = values.get("choices")
    usage = _as_dict(values.get("usage"))
    if choices is None and usage:
        choices = []
    if not isinstance(choices, list):
        raise ProtocolError("it has no choices")
    first = _as_dict(choices[0]) if choices else {}
    if first.get("error"):
        raise StreamFailed(parse_failure(first))
    delta = _as_dict(first.get("delta")) or _as_dict(first.get("message"))
    content, thoughts = _split_content(delta.get("content"))
    stop = first.get("stop_reason") or first.get("matched_stop")
    fields = (delta.get("reasoning_content"), delta.get("reasoning"), thoughts)
    reasoning = next(filter(None, map(_as_text, fields)), "")
    return ChatCompletionChunk(
        text=content,
        reasoning=reasoning,
        refusal=_as_text(delta.get("refusal")),
        tool_calls=tuple(_tool_call_fragments(delta)),
        token_logprobs=()
        if reasoning
        else _token_logprobs(_as_dict(first.get("logprobs")).get("content")),
        finish_reason=_as_text(first.get("finish_reason")),
        matched_stop=_as_text(stop),
        prompt_tokens=_as_count(usage.get("prompt_tokens")),
        completion_tokens=_as_count(usage.get("completion_tokens")),
        cached_tokens=_as_count(_as_dict(usage.get("prompt_tokens_details")).get("cached_tokens")),
        reasoning_tokens=_as_count(
            _as_dict(usage.get("completion_tokens_details")).get("reasoning_tokens")
        ),
    )


def _split_content(value: Any) -> tuple[str, str]:
    """Return the text and the thoughts of content, which Mistral sends as a list of parts."""
    if not isinstance(value, list):
        return _as_text(value), ""
    text = thoughts = ""
    for part in map(_as_dict, value):
        text += _as_text(part.get("text"))
        thinking = part.get("thinking")
        thoughts += _as_text(thinking) or _split_content(thinking)[0]
    return text, thoughts


def parse_models(content: bytes) -> list[RemoteModel]:
    """Parse the response of `GET /models`: each model once, in the server's order.

    Raises:
        ProtocolError: it is not a list of models.
    """
    values = parse_json(content)
    rows = values.get("data") if isinstance(values, dict) else None
    if not isinstance(rows, list):
        raise ProtocolError("it is not a list of models")
    models: dict[str, RemoteModel] = {}
    for row in map(_as_dict, rows):
        if name := _as_text(row.get("id")).strip():
            parent = _as_text(row.get("parent"))
            models.setdefault(
                name, RemoteModel(name, _context_length(row), parent, _says_images(row))
            )
    return [
        replace(model, context_length=model.context_length or _base_model_context(model, models))
        for model in models.values()
    ]


def _says_images(row: dict[str, Any]) -> bool:
    """Return whether a server says that a model takes images, as OpenRouter, LM Studio or
    llama.cpp do."""
    described = _as_dict(row.get("architecture"))
    named: list[Any] = [row.get("type")]
    for values in (row.get("input_modalities"), described.get("input_modalities")):
        named += values if isinstance(values, list) else []
    capabilities = row.get("capabilities")
    if isinstance(capabilities, dict):
        named += [name for name, has in capabilities.items() if has is True]
    named += capabilities if isinstance(capabilities, list) else []
    return not {"image", "images", "vision", "multimodal", "vlm"}.isdisjoint(
        name for name in named if isinstance(name, str)
    )


def parse_failure(value: Any) -> ServerFailure:
    """Parse an error object of OpenAI or FastAPI, or a plain text."""
    error = _as_dict(value).get("error", _as_dict(value).get("detail", value))
    if isinstance(error, str):
        return ServerFailure(replace_surrogates(error))
    codes = " ".join(_as_text(_as_dict(error).get(name)) for name in ("code", "param", "type"))
    message = _as_text(_as_dict(error).get("message"))
    return ServerFailure(
        message or (replace_surrogates(json.dumps(error)) if error else ""), codes.strip()
    )


def _tool_call_fragments(delta: dict[str, Any]) -> Iterator[ToolCallFragment]:
    """Parse the tool calls of a chunk; `function_call` is their older form."""
    rows = delta.get("tool_calls")
    calls = [_as_dict(row) for row in rows] if isinstance(rows, list) else []
    if isinstance(delta.get("function_call"), dict):
        calls.append({"function": delta["function_call"]})
    for position, call in enumerate(calls):
        function = _as_dict(call.get("function"))
        arguments = function.get("arguments")
        if isinstance(arguments, dict):  # some servers send the object itself
            arguments = json.dumps(arguments, ensure_ascii=False)
        index = call.get("index")
        yield ToolCallFragment(
            index if type(index) is int else position,
            _as_text(call.get("id")),
            _as_text(function.get("name")),
            _as_text(arguments),
        )


def _token_logprobs(rows: Any) -> tuple[TokenLogprob, ...]:
    """Parse the tokens of a chunk with their alternatives."""
    return tuple(
        TokenLogprob(
            _token_bytes(row), row["logprob"], tuple(_top_logprobs(row.get("top_logprobs")))
        )
        for row in _rows_with_logprob(rows)
    )


def _top_logprobs(rows: Any) -> Iterator[TokenLogprob]:
    return (TokenLogprob(_token_bytes(row), row["logprob"]) for row in _rows_with_logprob(rows))


def _rows_with_logprob(rows: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows with a valid log-probability."""
    for row in map(_as_dict, rows if isinstance(rows, list) else []):
        logprob = row.get("logprob")
        if (
            isinstance(logprob, int | float)
            and MIN_LOGPROB <= logprob <= 0
            and logprob is not False
        ):
            yield row


def _token_bytes(row: dict[str, Any]) -> bytes:
    """Return the bytes of a token, or its encoded text if the server does not send bytes."""
    values = row.get("bytes")
    try:
        return bytes(values) if isinstance(values, list) else _as_text(row.get("token")).encode()
    except (TypeError, ValueError) as error:
        raise ProtocolError("the bytes of a token are invalid") from error


def _context_length(row: dict[str, Any]) -> int | None:
    names = ("max_model_len", "context_length", "context_window", "max_context_length")
    counts = [_as_count(row.get(name)) for name in names]
    counts.append(_as_count(_as_dict(row.get("meta")).get("n_ctx")))  # llama.cpp
    return next((count for count in counts if count), None)


def _base_model_context(adapter: RemoteModel, models: Mapping[str, RemoteModel]) -> int | None:
    """Return the context length of an adapter's base model; vLLM reports only that one."""
    return models[adapter.parent].context_length if adapter.parent in models else None


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _as_text(value: Any) -> str:
    return replace_surrogates(value) if isinstance(value, str) else ""


def _as_count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_TOKEN_COUNT else None
