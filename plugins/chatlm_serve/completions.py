"""Chat completions: parse requests, generate replies, format responses, resolve model names."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby, pairwise
from typing import Any, TypeVar

from chatlm import (
    ContextTooLong,
    Delta,
    EngineEvent,
    EngineInfo,
    Finished,
    MessageRefused,
    PromptReady,
    Request,
    Sampling,
    Schema,
    Setup,
    SideChats,
    StopReason,
    TokenLogprob,
    ToolCall,
    Usage,
    UsageError,
    check_schema,
    one_line,
    thinking_problem,
)
from chatlm_serve.errors import ApiError, as_api_error, field_error
from chatlm_serve.work_queue import SharedBatch

T = TypeVar("T")

EngineEvents = AsyncGenerator[EngineEvent, None]
ReplyGenerator = Generator[EngineEvent | None, None, None]

DONE_EVENT = "data: [DONE]\n\n"


def prepare_reply(
    chats: SideChats, batch: SharedBatch, setup: Setup, params: CompletionParams
) -> ReplyGenerator:
    """Build the request for one reply, and return the generator of its events.

    The generator yields None while waiting; closing it cancels the reply. If a plugin refuses the
    message, the reason is the reply.

    Args:
        chats: creates the chat.
        batch: the batch of its engine.
        setup: the set-up that the model name selects.
        params: the client's request.

    Raises:
        ApiError: the model cannot think as the client wishes.
        ChatlmError: the set-up failed; from the generator: the engine failed.
        ContextTooLong: from the generator: the messages do not fit the context. The engine alone
            would omit the oldest without the client noticing.
    """
    sampling = _check_thinking(params, chats.begin(setup).engine.info)
    setup = dataclasses.replace(
        setup,
        system=params.system or setup.system,
        sampling=sampling.with_fallback(setup.sampling),
    )
    chat = chats.begin(setup)
    try:
        for question, reply in params.history:
            with suppress(MessageRefused):  # no model has read it
                chat.add(question.text, reply.text, reply.reasoning)
        request = dataclasses.replace(
            chat.request(params.question),
            logprobs=params.logprobs,
            max_new_tokens=params.sampling.max_tokens,  # here it counts thoughts, too
        )
    except MessageRefused as refusal:
        return _generate_refusal(refusal)
    return _generate_reply(chat.events_without_engine(request), batch, request)


def _generate_refusal(refusal: MessageRefused) -> ReplyGenerator:
    yield Delta(refusal.message)
    yield Finished(StopReason.END, Usage())


def _generate_reply(
    first: Sequence[EngineEvent], batch: SharedBatch, request: Request
) -> ReplyGenerator:
    yield from first
    if request.reply_complete:
        return
    with closing(batch.stream(request)) as events:
        for event in events:
            if isinstance(event, PromptReady) and event.omitted_messages:
                raise ContextTooLong(
                    "The messages and the reply do not fit the context of "
                    f"{event.context_length:,} tokens: {len(event.omitted_messages)} of the "
                    "messages would be omitted.",
                    hint="Remove the oldest messages, or lower max_tokens.",
                )
            yield event


class CompletionResponse:
    """Formats one reply as a chat completion, whole or streamed.

    Args:
        params: the client's request.
    """

    def __init__(self, params: CompletionParams) -> None:
        self._params = params
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    async def collect(self, events: EngineEvents) -> dict[str, Any]:
        """Collect the events and return the complete response body."""
        text, reasoning, tokens = "", "", list[TokenLogprob]()
        async with aclosing(events):
            while not isinstance(event := await anext(events), Finished):
                if isinstance(event, Delta):
                    text += event.answer
                    reasoning += event.text if event.part == "reasoning" else ""
                    tokens += event.logprobs if event.part == "text" else ()
        refused = event.stop_reason is StopReason.REFUSAL
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text,
            "refusal": text if refused else None,
        }
        if reasoning:
            message["reasoning_content"] = reasoning
        if event.tool_calls:
            message["tool_calls"] = tool_call_objects(event.tool_calls)
        choice = {
            "message": message,
            "finish_reason": openai_finish_reason(event),
            "logprobs": logprobs_object(tokens),
        }
        return self._object("chat.completion", choice) | {"usage": usage_object(event.usage)}

    async def stream(self, first: EngineEvent, rest: EngineEvents) -> AsyncGenerator[str, None]:
        """Yield the reply as server-sent events; an error is the last event."""
        event = first
        async with aclosing(rest):
            yield self._chunk({"role": "assistant", "content": ""})
            try:
                while not isinstance(event, Finished):
                    if isinstance(event, Delta) and event.text:
                        if event.part == "reasoning":
                            yield self._chunk({"reasoning_content": event.text})
                        else:
                            yield self._chunk({"content": event.text}, tokens=event.logprobs)
                    event = await anext(rest)
                finish_reason = openai_finish_reason(event)
            except Exception as error:
                yield sse_event(as_api_error(error).body)
                return
        if event.tool_calls:
            yield self._chunk({"tool_calls": tool_call_objects(event.tool_calls)})
        yield self._chunk({}, finish_reason)
        if self._params.include_usage:
            yield sse_event(
                self._object("chat.completion.chunk") | {"usage": usage_object(event.usage)}
            )
        yield DONE_EVENT

    def _chunk(
        self,
        delta: Mapping[str, Any],
        finish_reason: str | None = None,
        tokens: Sequence[TokenLogprob] = (),
    ) -> str:
        choice = {
            "delta": delta,
            "finish_reason": finish_reason,
            "logprobs": logprobs_object(tokens),
        }
        chunk = self._object("chat.completion.chunk", choice)
        return sse_event(chunk | {"usage": None} if self._params.include_usage else chunk)

    def _object(self, kind: str, *choices: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._params.model,
            "choices": [{"index": index} | choice for index, choice in enumerate(choices)],
        }


def sse_event(value: dict[str, Any]) -> str:
    """Format a server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def logprobs_object(tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    """Return tokens with their log-probabilities in OpenAI's format; None without tokens."""
    return {"content": [token.to_dict() for token in tokens], "refusal": None} if tokens else None


def tool_call_objects(calls: Iterable[ToolCall]) -> list[dict[str, Any]]:
    """Convert tool calls to OpenAI's format; the index is for the chunks of a stream."""
    return [
        {
            "index": index,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for index, call in enumerate(calls)
    ]


FINISH_REASONS: Mapping[StopReason, str] = {
    StopReason.END: "stop",
    StopReason.STOP_STRING: "stop",
    StopReason.CRITERION: "stop",
    StopReason.TOOL_LIMIT: "stop",
    StopReason.NOTHING_RELEVANT: "stop",
    StopReason.EMPTY: "stop",
    StopReason.LENGTH: "length",
    StopReason.CONTEXT_FULL: "length",
    StopReason.TOOL_CALLS: "tool_calls",
    StopReason.REFUSAL: "content_filter",
    StopReason.CONTENT_FILTER: "content_filter",
}
"""OpenAI's words for the stop reasons of a reply that came to an end. A refusal is named like a
filter, since OpenAI has no word for it and a stream has sent its text as content by then."""


def openai_finish_reason(finished: Finished) -> str:
    """Convert the stop reason to OpenAI's `finish_reason`.

    Raises:
        ApiError: the reply was cut off.
    """
    reason = finished.stop_reason
    if reason not in FINISH_REASONS:
        raise ApiError(500, f"The reply was cut off: {reason.label}.")
    return FINISH_REASONS[reason]


def usage_object(usage: Usage) -> dict[str, Any]:
    """Convert token counts to OpenAI's `usage` object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


MAX_MESSAGES = 1000
MAX_CHARACTERS_PER_TOKEN = 16
"""Messages with more characters than this for each token of the context are refused; text has 2
to 6."""
MAX_STOP_STRINGS = 16
MAX_TOP_LOGPROBS = 20

ROLES = ("system", "user", "assistant")

REASONING_FIELDS = ("reasoning_content", "reasoning")
"""Fields in which clients send thoughts of earlier replies back; the template decides whether the
model reads them again."""

SAMPLING_FIELDS = tuple(
    name
    for name in Sampling().settings()
    if name not in ("max_tokens", "stop", "schema", "grammar")
)
"""Fields that have the same name in chatlm's sampling."""

NEUTRAL_VALUES: Mapping[str, Any] = {
    "n": 1,
    "tools": [],
    "tool_choice": "none",
    "store": False,
}
"""Unsupported fields, each with the only accepted value, which has no effect."""

TYPE_NAMES: Mapping[type, str] = {
    bool: "true or false",
    int: "an integer",
    str: "a string",
    list: "a list",
    dict: "an object",
}

KNOWN_FIELDS = frozenset(
    (
        "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens",
        "stop", "logprobs", "top_logprobs", "user", "reasoning_effort", "chat_template_kwargs",
        "response_format", *SAMPLING_FIELDS, *NEUTRAL_VALUES,
    )
)  # fmt: skip


@dataclass(frozen=True)
class ClientMessage:
    """One message of a request."""

    role: str
    text: str
    reasoning: str = ""
    """Of a reply, what the model thought before it."""


@dataclass(frozen=True)
class CompletionParams:
    """A parsed chat completion request."""

    model: str
    system: str
    history: tuple[tuple[ClientMessage, ClientMessage], ...]
    """Earlier turns: user message and reply."""
    question: str
    sampling: Sampling
    thinking_field: str
    """The field that sets `sampling.thinking`; empty for none."""
    logprobs: int | None
    """Number of top alternatives per token; None without log-probabilities."""
    stream: bool
    include_usage: bool
    """Whether a stream ends with the token counts."""


def parse_params(body: Mapping[str, Any], context_length: int) -> CompletionParams:
    """Parse and validate a request body.

    Args:
        body: the decoded JSON; null fields count as missing.
        context_length: the model's context window, in tokens.

    Raises:
        ApiError: a field, which is named, is missing, invalid or unsupported.
    """
    fields = {name: value for name, value in body.items() if value is not None}
    for name, value in fields.items():
        if name not in KNOWN_FIELDS or (
            name in NEUTRAL_VALUES and not _is_neutral(value, NEUTRAL_VALUES[name])
        ):
            raise _unsupported_error(name)
    stream = _get_typed(fields, "stream", bool, False)
    options = _get_typed(fields, "stream_options", dict, {})
    if options and not stream:
        raise field_error("stream_options", "requires stream=true.")
    for name in options.keys() - {"include_usage"}:
        raise _unsupported_error(f"stream_options.{name}")
    messages = _parse_messages(fields)
    _check_size(messages, context_length)
    system, history, question = _split_conversation(messages)
    sampling, thinking_field = _parse_sampling(fields, context_length)
    return CompletionParams(
        model=_get_typed(fields, "model", str),
        system=system,
        history=history,
        question=question,
        sampling=sampling,
        thinking_field=thinking_field,
        logprobs=_parse_logprobs(fields),
        stream=stream,
        include_usage=_get_typed(options, "include_usage", bool, False, "stream_options."),
    )


def _parse_messages(fields: Mapping[str, Any]) -> list[ClientMessage]:
    messages = _get_typed(fields, "messages", list)
    if not 0 < len(messages) <= MAX_MESSAGES:
        raise field_error(
            "messages", f"must be 1 to {MAX_MESSAGES:,} messages, not {len(messages):,}."
        )
    return [_parse_message(message, f"messages[{at}]") for at, message in enumerate(messages)]


def _check_size(messages: Sequence[ClientMessage], context_length: int) -> None:
    """Refuse messages that cannot fit the context, before anything is computed for them."""
    count = sum(len(message.text) + len(message.reasoning) for message in messages)
    if count > MAX_CHARACTERS_PER_TOKEN * context_length:
        raise field_error(
            "messages",
            f"{count:,} characters do not fit the context of {context_length:,} tokens.",
            "context_length_exceeded",
        )


def _parse_message(message: Any, path: str) -> ClientMessage:
    if not isinstance(message, dict):
        raise field_error(path, "must be an object with role and content.")
    fields = {name: value for name, value in message.items() if value is not None}
    role = _get_typed(fields, "role", str, path=f"{path}.")
    if role not in ROLES:
        raise field_error(
            f"{path}.role", f"must be {', '.join(ROLES)}, not {one_line(role, 40)!r}."
        )
    known = {"role", "content", *(REASONING_FIELDS if role == "assistant" else ())}
    for name in fields.keys() - known:
        raise _unsupported_error(f"{path}.{name}")
    thoughts = (_get_typed(fields, name, str, "", f"{path}.") for name in REASONING_FIELDS)
    reasoning = next(filter(None, thoughts), "")
    if isinstance(fields.get("content"), list):
        parts = fields["content"]
        text = "".join(_parse_part(part, f"{path}.content[{at}]") for at, part in enumerate(parts))
    else:
        text = _get_typed(fields, "content", str, path=f"{path}.")
    return ClientMessage(role, text, reasoning)


def _parse_part(part: Any, path: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise field_error(path, 'only parts of type "text" are supported.', "unsupported_value")
    return _get_typed(part, "text", str, path=f"{path}.")


def _split_conversation(
    messages: Sequence[ClientMessage],
) -> tuple[str, tuple[tuple[ClientMessage, ClientMessage], ...], str]:
    """Split messages into system prompt, earlier turns, and the message to answer.

    Consecutive messages of one role are merged.
    """
    merged = [_merge(list(group)) for _, group in groupby(messages, key=lambda each: each.role)]
    system = merged.pop(0).text if merged[0].role == "system" else ""
    roles = [message.role for message in merged]
    if "system" in roles:
        raise field_error("messages", "system messages must come first.")
    if not roles or roles[0] != "user" or roles[-1] != "user":
        raise field_error(
            "messages",
            "the first message after the system messages and the last must be from the user.",
        )
    if not all(message.text.strip() for message in merged[::2]):
        raise field_error("messages", "a user message is empty.")
    return system, tuple(list(pairwise(merged))[::2]), merged[-1].text


def _merge(messages: Sequence[ClientMessage]) -> ClientMessage:
    thoughts = filter(None, (message.reasoning for message in messages))
    text = "\n\n".join(message.text for message in messages)
    return ClientMessage(messages[0].role, text, "\n\n".join(thoughts))


def _parse_sampling(fields: Mapping[str, Any], context_length: int) -> tuple[Sampling, str]:
    """Return the sampling, and the field that sets thinking."""
    limits = [name for name in ("max_tokens", "max_completion_tokens") if name in fields]
    if len(limits) > 1:
        raise field_error(limits[0], "cannot be combined with max_completion_tokens.")
    values = {
        name: _check_sampling_value(name, name, fields[name])
        for name in SAMPLING_FIELDS
        if name in fields
    }
    thinking_field, thinking = _parse_thinking(fields)
    if thinking is not None:
        values["thinking"] = thinking
    for name in limits:
        values["max_tokens"] = _check_sampling_value(name, "max_tokens", fields[name])
        if fields[name] > context_length:
            raise field_error(
                name, f"must be at most {context_length:,}, the model's context window."
            )
    values |= {"stop": _parse_stop(fields), "schema": _parse_response_format(fields)}
    return Sampling.from_dict(values), thinking_field


def _parse_response_format(fields: Mapping[str, Any]) -> Schema | None:
    """Return the schema that the answer must fit; None if it is free."""
    values = _get_typed(fields, "response_format", dict, {"type": "text"})
    kind = _get_typed(values, "type", str, path="response_format.")
    extra = values.keys() - {"type", *(("json_schema",) if kind == "json_schema" else ())}
    if extra:
        raise _unsupported_error(f"response_format.{min(extra)}")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise field_error(
            "response_format.type",
            f"must be text, json_object or json_schema, not {one_line(kind, 40)!r}.",
        )
    path = "response_format.json_schema."
    described = _get_typed(values, "json_schema", dict, path="response_format.")
    for name in described.keys() - {"name", "description", "schema", "strict"}:
        raise _unsupported_error(f"{path}{name}")
    schema = _get_typed(described, "schema", dict, path=path)
    try:
        check_schema(schema)
    except UsageError as error:
        raise field_error(f"{path}schema", f"{error.message}.") from None
    return dict(schema)


_EFFORTS = {"none": "off", "minimal": "low", "low": "low", "medium": "medium", "high": "high"}
"""Values of `reasoning_effort`, with those of chatlm's `thinking`."""


_SWITCHES = ("enable_thinking", "thinking")
"""Names of the switch in `chat_template_kwargs`, which differ by the family of the model."""


def _parse_thinking(fields: Mapping[str, Any]) -> tuple[str, str | None]:
    """Read the ways in which clients switch thinking: OpenAI's, and those of vLLM and llama.cpp.

    Returns:
        the field, and the value for `Sampling.thinking`; None if the client leaves it open.
    """
    options = _get_typed(fields, "chat_template_kwargs", dict, {})
    for name in options.keys() - {"reasoning_effort", *_SWITCHES}:
        raise _unsupported_error(f"chat_template_kwargs.{name}")
    for values, path in ((fields, ""), (options, "chat_template_kwargs.")):
        if values.get("reasoning_effort") is not None:
            effort = _get_typed(values, "reasoning_effort", str, path=path)
            if effort not in _EFFORTS:
                raise field_error(
                    f"{path}reasoning_effort", f"must be one of {', '.join(_EFFORTS)}."
                )
            return f"{path}reasoning_effort", _EFFORTS[effort]
    for name in _SWITCHES:
        if options.get(name) is not None:
            path = "chat_template_kwargs."
            enabled = _get_typed(options, name, bool, True, path)
            return path + name, "medium" if enabled else "off"
    return ("thinking", fields["thinking"]) if "thinking" in fields else ("", None)


def _check_thinking(params: CompletionParams, info: EngineInfo) -> Sampling:
    """Return the sampling for a model, which may think anyway where a client switches it on.

    Raises:
        ApiError: the model cannot follow the client's setting.
    """
    sampling, name = params.sampling, params.thinking_field
    problem = thinking_problem(sampling.thinking, info)
    if problem is None:
        return sampling
    if info.thinks and name.endswith(_SWITCHES) and sampling.thinking != "off":
        return dataclasses.replace(sampling, thinking=None)
    raise field_error(name, str(problem), "unsupported_value")


def _check_sampling_value(param: str, name: str, value: Any) -> Any:
    try:
        return Sampling.from_dict({name: value}).settings()[name]
    except UsageError as error:
        raise field_error(param, str(error)) from error


def _parse_stop(fields: Mapping[str, Any]) -> tuple[str, ...]:
    stops: tuple[str, ...] = _check_sampling_value("stop", "stop", fields.get("stop", ()))
    if len(stops) > MAX_STOP_STRINGS:
        raise field_error(
            "stop", f"must be at most {MAX_STOP_STRINGS} strings, not {len(stops):,}."
        )
    return stops


def _parse_logprobs(fields: Mapping[str, Any]) -> int | None:
    if not _get_typed(fields, "logprobs", bool, False):
        if "top_logprobs" in fields:
            raise field_error("top_logprobs", "requires logprobs=true.")
        return None
    top = _get_typed(fields, "top_logprobs", int, 0)
    if not 0 <= top <= MAX_TOP_LOGPROBS:
        raise field_error("top_logprobs", f"must be 0 to {MAX_TOP_LOGPROBS}, not {top:,}.")
    return top


def _get_typed(
    fields: Mapping[str, Any],
    name: str,
    expected_type: type[T],
    default: T | None = None,
    path: str = "",
) -> T:
    """Return a field after checking its type; without a default it is required."""
    value = fields.get(name, default)
    if type(value) is not expected_type:
        raise field_error(f"{path}{name}", f"must be {TYPE_NAMES[expected_type]}.")
    return value


def _is_neutral(value: Any, neutral: Any) -> bool:
    return type(value) is type(neutral) and bool(value == neutral)


def _unsupported_error(name: str) -> Exception:
    return field_error(one_line(name, 60), "is not supported.", "unsupported_parameter")


SETUP_SEPARATOR = "+"
"""Separates the parts of a model name."""


def model_names(model: str, setups: Mapping[str, Setup]) -> list[str]:
    """Return the model names for clients: the model alone, and with each set-up."""
    return [model, *(f"{model}{SETUP_SEPARATOR}{name}" for name in setups)]


def setup_for_model(name: str, served_model: str, setups: Mapping[str, Setup]) -> Setup:
    """Return the set-up that a model name selects.

    Args:
        name: the name in the request.
        served_model: the served model.
        setups: available set-ups by name.

    Raises:
        ApiError: the model does not exist, or its parts cannot be combined.
    """
    base, separator, rest = name.removeprefix(served_model).partition(SETUP_SEPARATOR)
    parts = rest.split(SETUP_SEPARATOR) if separator else []
    if base or not name.startswith(served_model) or any(part not in setups for part in parts):
        known = model_names(served_model, setups)
        near = get_close_matches(name, known, 1)
        raise ApiError(
            404,
            f"The model {one_line(name, 80)!r} does not exist. "
            + (f"Did you mean {near[0]}? " if near else "")
            + "GET /v1/models lists all models.",
            param="model",
            code="model_not_found",
        )
    return _merge_setups(setups[part] for part in parts)


def _merge_setups(setups: Iterable[Setup]) -> Setup:
    merged: dict[str, Any] = {}
    plugin_data: dict[str, Any] = {}
    for setup in setups:
        values = setup.to_dict()
        data = values.pop("kept", {})
        if shared := sorted((merged.keys() & values.keys()) | (plugin_data.keys() & data.keys())):
            raise field_error(
                "model", f"its parts cannot be combined: more than one sets {shared[0]}."
            )
        merged |= values
        plugin_data |= data
    return Setup.from_dict({**merged, "kept": plugin_data})
