"""OpenAI's chat completions: `POST /v1/chat/completions`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from starlette.routing import Route

from chatlm import Sampling, Schema, StopReason, TokenLogprob, ToolCall, ToolCallDelta, Usage
from chatlm_serve.errors import ApiError, field_error
from chatlm_serve.fields import check_neutral, get_typed, refuse_unknown, without_nulls
from chatlm_serve.generation_request import (
    MAX_CHOICES,
    MAX_TOP_LOGPROBS,
    GenerationRequest,
    sampling_value,
    split_conversation,
)
from chatlm_serve.protocols.openai_errors import error_body
from chatlm_serve.protocols.openai_fields import (
    HINTS,
    SAMPLING_FIELDS,
    parse_effort,
    parse_schema_format,
    parse_tools,
    sampling_values,
)
from chatlm_serve.protocols.openai_messages import parse_messages
from chatlm_serve.reply_events import (
    ReasoningDelta,
    ReplyEnded,
    ReplyEvent,
    TextDelta,
    WholeReply,
)
from chatlm_serve.reply_service import ReplyService
from chatlm_serve.replying import SSE, reply_route, server_sent_event

DONE_EVENT = "data: [DONE]\n\n"

LIMITS = ("max_tokens", "max_completion_tokens")

NEUTRAL_VALUES: Mapping[str, Any] = {"store": False, "modalities": ["text"]}
"""Unsupported fields, each with the only accepted value, which has no effect."""

KNOWN_FIELDS = frozenset(
    (
        "model", "messages", "stream", "stream_options", "stop", "logprobs", "top_logprobs", "n",
        "thinking", "reasoning_effort", "chat_template_kwargs", "response_format", "tools",
        "tool_choice", "parallel_tool_calls", "continue_final_message", "prediction",
        *LIMITS, *SAMPLING_FIELDS, *NEUTRAL_VALUES, *HINTS,
    )
)  # fmt: skip
"""`prediction` may only make a reply faster."""

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


def routes(service: ReplyService) -> list[Route]:
    """Return the endpoint."""
    return [reply_route("/v1/chat/completions", service, parse_chat_request)]


def parse_chat_request(body: Mapping[str, Any]) -> tuple[GenerationRequest, ChatFormat]:
    """Parse and validate a request body.

    Args:
        body: the decoded JSON; null fields count as missing.

    Raises:
        ApiError: a field, which is named, is missing, invalid or unsupported.
    """
    fields = without_nulls(body, "body")
    refuse_unknown(fields, KNOWN_FIELDS)
    check_neutral(fields, NEUTRAL_VALUES)
    model = get_typed(fields, "model", str)
    stream = get_typed(fields, "stream", bool, False)
    continues = get_typed(fields, "continue_final_message", bool, False)
    messages = parse_messages(get_typed(fields, "messages", list))
    conversation = split_conversation(messages, may_continue=continues)
    values = sampling_values(fields, LIMITS)
    thinking_field, thinking = _parse_thinking(fields)
    if thinking is not None:
        values["thinking"] = thinking
    values["schema"] = parse_response_format(fields)
    tools, tool_choice, parallel = parse_tools(fields, nested=True)
    request = GenerationRequest(
        model=model,
        conversation=conversation,
        sampling=Sampling.from_dict(values),
        thinking_field=thinking_field,
        thinking_is_switch=thinking_field.endswith(_SWITCHES),
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=parallel,
        logprobs=_parse_logprobs(fields),
        choices=parse_choices(fields),
        stream=stream,
    )
    return request, ChatFormat(model, parse_include_usage(fields, stream))


def parse_choices(fields: Mapping[str, Any]) -> int:
    """Return how many replies are asked for.

    Raises:
        ApiError: they are too many.
    """
    choices = get_typed(fields, "n", int, 1)
    if not 1 <= choices <= MAX_CHOICES:
        raise field_error("n", f"must be 1 to {MAX_CHOICES}, not {choices:,}.")
    return choices


def parse_include_usage(fields: Mapping[str, Any], stream: bool) -> bool:
    """Return whether a stream ends with the token counts.

    Raises:
        ApiError: the options are not those of a stream.
    """
    options = get_typed(fields, "stream_options", dict, {})
    if options and not stream:
        raise field_error("stream_options", "requires stream=true.")
    # obfuscation only pads the stream against eavesdroppers; the reply is the same without it
    refuse_unknown(options, ("include_usage", "include_obfuscation"), "stream_options.")
    return get_typed(options, "include_usage", bool, False, "stream_options.")


def parse_response_format(fields: Mapping[str, Any]) -> Schema | None:
    """Return the schema that the answer must fit; None if it is free.

    Raises:
        ApiError: it is no format.
    """
    values = get_typed(fields, "response_format", dict, {"type": "text"})
    path, described_path = "response_format.", "response_format.json_schema."
    has_schema = values.get("type") == "json_schema"
    refuse_unknown(values, ("type", *(["json_schema"] if has_schema else [])), path)
    described = get_typed(values, "json_schema", dict, path=path) if has_schema else {}
    refuse_unknown(described, ("name", "description", "schema", "strict"), described_path)
    return parse_schema_format(values, path, described, described_path)


_SWITCHES = ("enable_thinking", "thinking")
"""Names of the switch in `chat_template_kwargs`, which differ by the family of the model."""


def _parse_thinking(fields: Mapping[str, Any]) -> tuple[str, str | None]:
    """Read the ways in which clients switch thinking: OpenAI's, and those of vLLM and llama.cpp.

    Returns:
        the field, and the value for `Sampling.thinking`; None if the client leaves it open.
    """
    path = "chat_template_kwargs."
    options = get_typed(fields, "chat_template_kwargs", dict, {})
    refuse_unknown(options, ("reasoning_effort", *_SWITCHES), path)
    for values, prefix in ((fields, ""), (options, path)):
        if values.get("reasoning_effort") is not None:
            name = f"{prefix}reasoning_effort"
            return name, parse_effort(values["reasoning_effort"], name)
    for name in _SWITCHES:
        if options.get(name) is not None:
            enabled = get_typed(options, name, bool, True, path)
            return path + name, "medium" if enabled else "off"
    if "thinking" in fields:
        return "thinking", sampling_value("thinking", "thinking", fields["thinking"])
    return "", None


def _parse_logprobs(fields: Mapping[str, Any]) -> int | None:
    if not get_typed(fields, "logprobs", bool, False):
        if "top_logprobs" in fields:
            raise field_error("top_logprobs", "requires logprobs=true.")
        return None
    top = get_typed(fields, "top_logprobs", int, 0)
    if not 0 <= top <= MAX_TOP_LOGPROBS:
        raise field_error("top_logprobs", f"must be 0 to {MAX_TOP_LOGPROBS}, not {top:,}.")
    return top


class ChatFormat:
    """Formats replies as a chat completion, whole or streamed.

    Args:
        model: the model's name in the request.
        include_usage: whether a stream ends with the token counts.
    """

    media_type = SSE

    def __init__(self, model: str, include_usage: bool) -> None:
        self._model = model
        self._include_usage = include_usage
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._usages: list[Usage] = []
        self._begun: set[int] = set()
        """Replies whose first chunk was sent."""

    def whole(self, replies: Sequence[WholeReply]) -> dict[str, Any]:
        """Return the complete response body."""
        choices = [self._choice(number, each) for number, each in enumerate(replies)]
        usage = usage_object(each.end.usage for each in replies)
        return self._object("chat.completion", choices) | {"usage": usage}

    def _choice(self, number: int, each: WholeReply) -> dict[str, Any]:
        refused = each.end.stop_reason is StopReason.REFUSAL
        calls = each.end.tool_calls
        message: dict[str, Any] = {
            "role": "assistant",
            "content": each.text if each.text or not calls else None,
            "refusal": each.text if refused else None,
        }
        if each.reasoning:
            message["reasoning_content"] = each.reasoning
        if calls:
            message["tool_calls"] = [tool_call_object(call) for call in calls]
        return {
            "index": number,
            "message": message,
            "finish_reason": FINISH_REASONS[each.end.stop_reason],
            "logprobs": logprobs_object(each.logprobs),
        }

    def begin(self) -> str:
        """Return nothing: each reply begins with its first event."""
        return ""

    def event(self, choice: int, event: ReplyEvent) -> str:
        """Format an event."""
        first = ""
        if choice not in self._begun:
            self._begun.add(choice)
            first = self._chunk(choice, {"role": "assistant", "content": ""})
        match event:
            case TextDelta(text, logprobs, repeats_call=False):
                return first + self._chunk(choice, {"content": text}, tokens=logprobs)
            case ReasoningDelta(text):
                return first + self._chunk(choice, {"reasoning_content": text})
            case ToolCallDelta():
                return first + self._chunk(choice, {"tool_calls": [_call_delta(event)]})
            case ReplyEnded(usage=usage):
                self._usages.append(usage)
                return first + self._chunk(choice, {}, FINISH_REASONS[event.streamed_reason])
        return first

    def end(self) -> str:
        """Return the token counts if they are asked for, and the end."""
        if not self._include_usage:
            return DONE_EVENT
        usage = {"usage": usage_object(self._usages)}
        return server_sent_event(self._object("chat.completion.chunk", []) | usage) + DONE_EVENT

    def failure(self, error: ApiError) -> str:
        """Return the error as the last event."""
        return server_sent_event(error_body(error))

    def _chunk(
        self,
        number: int,
        delta: Mapping[str, Any],
        finish_reason: str | None = None,
        tokens: Sequence[TokenLogprob] = (),
    ) -> str:
        choice = {
            "index": number,
            "delta": delta,
            "finish_reason": finish_reason,
            "logprobs": logprobs_object(tokens),
        }
        chunk = self._object("chat.completion.chunk", [choice])
        return server_sent_event(chunk | {"usage": None} if self._include_usage else chunk)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }


def logprobs_object(tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    """Return tokens with their log-probabilities in OpenAI's format; None without tokens."""
    return {"content": [token.to_dict() for token in tokens], "refusal": None} if tokens else None


def tool_call_object(call: ToolCall) -> dict[str, Any]:
    """Convert a tool call to OpenAI's format."""
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _call_delta(event: ToolCallDelta) -> dict[str, Any]:
    function = {"arguments": event.arguments}
    if not event.id:
        return {"index": event.index, "function": function}
    named = {"name": event.name} | function
    return {"index": event.index, "id": event.id, "type": "function", "function": named}


def usage_object(usages: Iterable[Usage]) -> dict[str, Any]:
    """Convert the token counts of replies to one prompt to OpenAI's `usage` object."""
    counted = list(usages)
    prompt = max((usage.prompt_tokens for usage in counted), default=0)
    completion = sum(usage.completion_tokens for usage in counted)
    cached = counted[0].cached_tokens if counted else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {
            "reasoning_tokens": sum(usage.reasoning_tokens for usage in counted)
        },
    }
