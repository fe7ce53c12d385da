"""Anthropic's messages: `POST /v1/messages` and `POST /v1/messages/count_tokens`."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chatlm import (
    Message,
    Part,
    Reasoning,
    Sampling,
    Schema,
    StopReason,
    Text,
    ToolCall,
    ToolCallDelta,
    ToolDefinition,
    ToolResult,
    Usage,
    one_line,
)
from chatlm_serve.errors import ApiError, field_error
from chatlm_serve.fields import (
    check_neutral,
    get_typed,
    refuse_unknown,
    unsupported_error,
    without_nulls,
)
from chatlm_serve.generation_request import (
    GenerationRequest,
    check_stop,
    check_tools,
    checked_schema,
    limit_value,
    sampling_value,
    split_conversation,
    tool_definition,
)
from chatlm_serve.http_guard import read_json_body
from chatlm_serve.images import image_from_base64
from chatlm_serve.reply_events import (
    ReasoningDelta,
    ReplyEnded,
    ReplyEvent,
    ReplyStarted,
    TextDelta,
    WholeReply,
    call_arguments,
)
from chatlm_serve.reply_service import ReplyService
from chatlm_serve.replying import SSE, reply_route, server_sent_event, while_connected

PATH = "/v1/messages"

HINTS = frozenset(
    {"metadata", "service_tier", "inference_geo", "speed", "user_profile_id", "workspace_id"}
)
"""Fields that say something about a request, but change no reply."""

SAMPLING_FIELDS = ("temperature", "top_p", "top_k")

KNOWN_FIELDS = frozenset(
    (
        "model", "messages", "max_tokens", "system", "stop_sequences", "stream", "thinking",
        "tools", "tool_choice", "output_config", "output_format", "cache_control",
        *SAMPLING_FIELDS, *HINTS,
    )
)  # fmt: skip
"""`cache_control` says what to keep of a prompt, which is always kept here."""

_BLOCK_FIELDS: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "citations"),
    "image": ("source",),
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
    "tool_use": ("id", "name", "input", "caller", "toolset_name"),
    "tool_result": ("tool_use_id", "content", "is_error", "toolset_name"),
}
"""Fields of each type of block, besides its type and `cache_control`."""

STOP_REASONS: Mapping[StopReason, str] = {
    StopReason.END: "end_turn",
    StopReason.STOP_STRING: "stop_sequence",
    StopReason.CRITERION: "end_turn",
    StopReason.TOOL_LIMIT: "end_turn",
    StopReason.NOTHING_RELEVANT: "end_turn",
    StopReason.EMPTY: "end_turn",
    StopReason.LENGTH: "max_tokens",
    StopReason.CONTEXT_FULL: "model_context_window_exceeded",
    StopReason.TOOL_CALLS: "tool_use",
    StopReason.REFUSAL: "refusal",
    StopReason.CONTENT_FILTER: "refusal",
}
"""Anthropic's words for the stop reasons of a reply that came to an end."""

_ERROR_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def routes(service: ReplyService) -> list[Route]:
    """Return the endpoints."""
    return [
        reply_route(PATH, service, parse_message_request),
        Route(f"{PATH}/count_tokens", partial(_count_tokens, service), methods=["POST"]),
    ]


def error_body(error: ApiError) -> dict[str, Any]:
    """Return the body of an error response, which also ends a stream that failed."""
    default = "api_error" if error.status >= 500 else "invalid_request_error"
    kind = _ERROR_TYPES.get(error.status, default)
    return {"type": "error", "error": {"type": kind, "message": error.message}}


async def _count_tokens(service: ReplyService, request: Request) -> Response:
    body = await read_json_body(request)
    service.check_capacity(body.get("model"))
    asked, _ = await asyncio.to_thread(parse_message_request, {"max_tokens": 1, **body})
    count = await while_connected(request, service.count_tokens(asked))
    return JSONResponse({"input_tokens": count})


def parse_message_request(body: Mapping[str, Any]) -> tuple[GenerationRequest, MessageFormat]:
    """Parse and validate a request body.

    Args:
        body: the decoded JSON; null fields count as missing.

    Raises:
        ApiError: a field, which is named, is missing, invalid or unsupported.
    """
    fields = without_nulls(body, "body")
    refuse_unknown(fields, KNOWN_FIELDS)
    model = get_typed(fields, "model", str)
    values = {
        name: sampling_value(name, name, fields[name]) for name in SAMPLING_FIELDS if name in fields
    }
    if "max_tokens" not in fields:
        raise field_error("max_tokens", "is required.")
    values["max_tokens"] = limit_value("max_tokens", fields["max_tokens"])
    if "stop_sequences" in fields:
        values["stop"] = check_stop("stop_sequences", get_typed(fields, "stop_sequences", list))
    thinking = _parse_thinking(fields)
    effort, schema = _parse_output(fields)
    values |= thinking
    if effort and thinking["thinking"] != "off":
        values["thinking"] = effort
    values["schema"] = schema
    messages = [*_parse_system(fields), *_parse_messages(get_typed(fields, "messages", list))]
    choice, parallel = _parse_tool_choice(fields)
    request = GenerationRequest(
        model=model,
        conversation=split_conversation(messages, may_continue=True),
        sampling=Sampling.from_dict(values),
        thinking_is_switch=not effort,
        thinking_is_wish="thinking" not in fields,
        tools=check_tools(_parse_tools(fields), choice),
        tool_choice=choice,
        parallel_tool_calls=parallel,
        stream=get_typed(fields, "stream", bool, False),
    )
    return request, MessageFormat(model, shows_thoughts=_shows_thoughts(fields))


def _shows_thoughts(fields: Mapping[str, Any]) -> bool:
    """Return whether a client gets thoughts, which a model may have unasked."""
    thinking: Mapping[str, str] = fields.get("thinking", {"type": "disabled"})
    return thinking["type"] != "disabled" and thinking.get("display") != "omitted"


def _parse_thinking(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of thinking, which is off unless it is asked for."""
    if "thinking" not in fields:
        return {"thinking": "off"}
    values = without_nulls(fields["thinking"], "thinking")
    refuse_unknown(values, ("type", "budget_tokens", "display"), "thinking.")
    kind = get_typed(values, "type", str, path="thinking.")
    if kind == "disabled":
        return {"thinking": "off"}
    if kind == "adaptive":
        return {"thinking": "auto"}
    if kind != "enabled":
        raise field_error(
            "thinking.type", f"must be enabled, disabled or adaptive, not {one_line(kind, 40)!r}."
        )
    name = "thinking.budget_tokens"
    budget = get_typed(values, "budget_tokens", int, path="thinking.")
    return {
        "thinking": "medium",
        "thinking_budget": sampling_value(name, "thinking_budget", budget),
    }


def _parse_output(fields: Mapping[str, Any]) -> tuple[str | None, Schema | None]:
    """Return how much to think, and the schema of the answer; None for what is open."""
    config = without_nulls(fields.get("output_config", {}), "output_config")
    refuse_unknown(config, ("effort", "format"), "output_config.")
    effort = None
    if "effort" in config:
        effort = get_typed(config, "effort", str, path="output_config.")
        effort = {"max": "high", "xhigh": "high"}.get(effort, effort)
        if effort not in ("low", "medium", "high"):
            raise field_error("output_config.effort", "must be low, medium, high or max.")
    path, value = "output_config.format", config.get("format")
    if value is None:
        path, value = "output_format", fields.get("output_format")
    if value is None:
        return effort, None
    form = without_nulls(value, path)
    refuse_unknown(form, ("type", "schema"), f"{path}.")
    if get_typed(form, "type", str, path=f"{path}.") != "json_schema":
        raise field_error(f"{path}.type", "must be json_schema.")
    schema = get_typed(form, "schema", dict, path=f"{path}.")
    return effort, checked_schema(schema, f"{path}.schema")


def _parse_tools(fields: Mapping[str, Any]) -> list[ToolDefinition]:
    tools = []
    for index, value in enumerate(get_typed(fields, "tools", list, [])):
        path = f"tools[{index}]"
        tool = without_nulls(value, path)
        kind = get_typed(tool, "type", str, "custom", f"{path}.")
        if kind != "custom":
            raise field_error(
                f"{path}.type",
                f"only tools that the client runs are supported, not {one_line(kind, 40)!r}.",
                "unsupported_value",
            )
        known = ("type", "name", "description", "input_schema", "cache_control", "strict")
        neutral = {"allowed_callers": ["direct"], "defer_loading": False, "input_examples": []}
        refuse_unknown(tool, (*known, "eager_input_streaming", *neutral), f"{path}.")
        check_neutral(tool, neutral, f"{path}.")
        tools.append(
            tool_definition(
                get_typed(tool, "name", str, path=f"{path}."),
                get_typed(tool, "description", str, "", f"{path}."),
                ("input_schema", get_typed(tool, "input_schema", dict, path=f"{path}.")),
                path,
            )
        )
    return tools


def _parse_tool_choice(fields: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the choice as in `GenerationRequest`, and whether several tools may be called."""
    values = without_nulls(fields.get("tool_choice", {"type": "auto"}), "tool_choice")
    refuse_unknown(values, ("type", "name", "disable_parallel_tool_use"), "tool_choice.")
    kind = get_typed(values, "type", str, path="tool_choice.")
    parallel = not get_typed(values, "disable_parallel_tool_use", bool, False, "tool_choice.")
    if kind == "tool":
        return get_typed(values, "name", str, path="tool_choice."), parallel
    choices = {"auto": "auto", "any": "required", "none": "none"}
    if kind not in choices:
        raise field_error("tool_choice.type", "must be auto, any, tool or none.")
    return choices[kind], parallel


def _parse_system(fields: Mapping[str, Any]) -> Iterator[Message]:
    value = fields.get("system", "")
    text = value if isinstance(value, str) else _parse_texts(value, "system")
    if text:
        yield Message("system", text)


def _parse_messages(values: Sequence[Any]) -> Iterator[Message]:
    for index, value in enumerate(values):
        path = f"messages[{index}]"
        fields = without_nulls(value, path)
        refuse_unknown(fields, ("role", "content"), f"{path}.")
        role = get_typed(fields, "role", str, path=f"{path}.")
        if role not in ("user", "assistant", "system"):
            raise field_error(
                f"{path}.role", f"must be user, assistant or system, not {one_line(role, 40)!r}."
            )
        content = fields.get("content")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        blocks = list(_blocks(content, f"{path}.content"))
        if role == "assistant":
            parts = [part for place, block in blocks for part in _reply_parts(block, place)]
            yield Message("assistant", parts)
        elif role == "system":
            yield Message("system", _parse_texts(content, f"{path}.content"))
        else:
            yield from _user_messages(blocks)


def _user_messages(blocks: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Message]:
    """Yield the results of tools, then the user's own text."""
    results: list[Part] = []
    parts: list[Part] = []
    for path, block in blocks:
        kind = _block_type(block, path, ("text", "image", "tool_result"))
        if kind == "image":
            parts.append(_parse_image(block, path))
            continue
        if kind == "text":
            text = get_typed(block, "text", str, path=f"{path}.")
            divider = "\n\n" if parts and isinstance(parts[-1], Text) else ""
            parts.append(Text(divider + text))
            continue
        text, images = _parse_result(block.get("content", ""), f"{path}.content")
        call_id = get_typed(block, "tool_use_id", str, path=f"{path}.")
        failed = get_typed(block, "is_error", bool, False, f"{path}.")
        results += [ToolResult(call_id, "", text, failed), *images]
    if results:
        yield Message("tool", results)
    if parts or not results:
        yield Message("user", parts or "")


def _parse_result(content: Any, path: str) -> tuple[str, list[Part]]:
    """Return the text of a tool's result, and its images."""
    if isinstance(content, str):
        return content, []
    texts, images = [], []
    for place, block in _blocks(content, path):
        if _block_type(block, place, ("text", "image")) == "image":
            images.append(_parse_image(block, place))
        else:
            texts.append(get_typed(block, "text", str, path=f"{place}."))
    return "\n\n".join(texts), images


def _parse_image(block: Mapping[str, Any], path: str) -> Part:
    source = without_nulls(get_typed(block, "source", dict, path=f"{path}."), f"{path}.source")
    refuse_unknown(source, ("type", "media_type", "data", "url", "file_id"), f"{path}.source.")
    if get_typed(source, "type", str, path=f"{path}.source.") != "base64":
        raise field_error(
            f"{path}.source.type",
            "must be base64: this server fetches no addresses and keeps no files.",
            "unsupported_value",
        )
    get_typed(source, "media_type", str, "", f"{path}.source.")  # the content decides
    return image_from_base64(
        get_typed(source, "data", str, path=f"{path}.source."), f"{path}.source.data"
    )


def _reply_parts(block: Mapping[str, Any], path: str) -> Iterator[Part]:
    kinds = ("text", "thinking", "redacted_thinking", "tool_use")
    match _block_type(block, path, kinds):
        case "text":
            if text := get_typed(block, "text", str, path=f"{path}."):
                yield Text(text)
        case "thinking":
            if text := get_typed(block, "thinking", str, path=f"{path}."):
                yield Reasoning(text)
        case "tool_use":
            arguments = get_typed(block, "input", dict, path=f"{path}.")
            yield ToolCall(
                get_typed(block, "id", str, path=f"{path}."),
                get_typed(block, "name", str, path=f"{path}."),
                json.dumps(arguments, ensure_ascii=False),
            )
        case _:
            raise unsupported_error(f"{path}.type", "encrypted thoughts cannot be read.")


def _block_type(block: Mapping[str, Any], path: str, kinds: Sequence[str]) -> str:
    kind = get_typed(block, "type", str, path=f"{path}.")
    if kind not in kinds:
        raise field_error(
            f"{path}.type",
            f"blocks of the type {one_line(kind, 40)!r} are not supported here.",
            "unsupported_value",
        )
    refuse_unknown(block, ("type", "cache_control", *_BLOCK_FIELDS[kind]), f"{path}.")
    return kind


def _parse_texts(blocks: Any, path: str) -> str:
    """Return the text of blocks that have nothing else."""
    texts = []
    for place, block in _blocks(blocks, path):
        _block_type(block, place, ("text",))
        texts.append(get_typed(block, "text", str, path=f"{place}."))
    return "\n\n".join(texts)


def _blocks(content: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the blocks of a content, each with its name in an error."""
    if not isinstance(content, list):
        raise field_error(path, "must be a string or a list of blocks.")
    for index, block in enumerate(content):
        place = f"{path}[{index}]"
        yield place, without_nulls(block, place)


class MessageFormat:
    """Formats a reply as a message of Anthropic's, whole or streamed.

    Args:
        model: the model's name in the request.
        shows_thoughts: whether thoughts are blocks of the message.
    """

    media_type = SSE

    def __init__(self, model: str, *, shows_thoughts: bool) -> None:
        self._model = model
        self._shows_thoughts = shows_thoughts
        self._id = f"msg_{uuid.uuid4().hex}"
        self._started = False
        self._open_block = ""
        """Type of the block that is being streamed; a tool's has its index as well."""
        self._blocks = 0

    def whole(self, replies: Sequence[WholeReply]) -> dict[str, Any]:
        """Return the complete response body."""
        each = replies[0]
        content: list[dict[str, Any]] = []
        if each.reasoning and self._shows_thoughts:
            content.append({"type": "thinking", "thinking": each.reasoning, "signature": ""})
        if each.text:
            content.append({"type": "text", "text": each.text})
        content += [
            {
                "type": "tool_use",
                "id": call.id,
                "name": call.name,
                "input": call_arguments(call),
            }
            for call in each.end.tool_calls
        ]
        return self._message(content, usage_object(each.end.usage)) | _ending(
            each.end, each.end.stop_reason
        )

    def begin(self) -> str:
        """Return nothing: the stream begins with the reply's first event."""
        return ""

    def event(self, choice: int, event: ReplyEvent) -> str:
        """Format an event."""
        first = "" if self._started else self._start(event)
        match event:
            case TextDelta(text=text, repeats_call=False) if text:
                block: dict[str, Any] = {"type": "text", "text": ""}
                return first + self._delta("text", block, {"type": "text_delta", "text": text})
            case ReasoningDelta(text) if self._shows_thoughts:
                block = {"type": "thinking", "thinking": "", "signature": ""}
                delta = {"type": "thinking_delta", "thinking": text}
                return first + self._delta("thinking", block, delta)
            case ToolCallDelta(index, call_id, name, arguments):
                block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
                delta = {"type": "input_json_delta", "partial_json": arguments}
                return first + self._delta(f"tool {index}", block, delta)
            case ReplyEnded():
                ending = _ending(event, event.streamed_reason)
                ended = {"delta": ending, "usage": usage_object(event.usage)}
                return first + self._close_block() + _event("message_delta", ended)
        return first

    def end(self) -> str:
        """Return the last event."""
        return _event("message_stop", {})

    def failure(self, error: ApiError) -> str:
        """Return the error as the last event."""
        return server_sent_event(error_body(error), "error")

    def _start(self, event: ReplyEvent) -> str:
        self._started = True
        usage = Usage()
        if isinstance(event, ReplyStarted):
            usage = Usage(event.prompt_tokens, event.cached_tokens)
        unfinished = {"stop_reason": None, "stop_sequence": None}
        message = self._message([], usage_object(usage)) | unfinished
        return _event("message_start", {"message": message})

    def _delta(self, kind: str, block: Mapping[str, Any], delta: Mapping[str, Any]) -> str:
        """Format a part of a block, which begins if it is not the one that is open."""
        before = ""
        if kind != self._open_block:
            before = self._close_block()
            self._open_block = kind
            start = {"index": self._blocks, "content_block": block}
            before += _event("content_block_start", start)
        return before + _event("content_block_delta", {"index": self._blocks, "delta": delta})

    def _close_block(self) -> str:
        if not self._open_block:
            return ""
        self._open_block = ""
        self._blocks += 1
        return _event("content_block_stop", {"index": self._blocks - 1})

    def _message(self, content: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "usage": usage,
        }


def _event(name: str, values: Mapping[str, Any]) -> str:
    return server_sent_event({"type": name, **values}, name)


def _ending(end: ReplyEnded, stop_reason: StopReason) -> dict[str, Any]:
    stopped = stop_reason is StopReason.STOP_STRING
    return {
        "stop_reason": STOP_REASONS[stop_reason],
        "stop_sequence": end.matched_stop if stopped else None,
    }


def usage_object(usage: Usage) -> dict[str, Any]:
    """Convert token counts; Anthropic counts the tokens of a prompt that were cached apart."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
