"""OpenAI's responses: `POST /v1/responses`, without a memory of earlier ones."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.routing import Route

from chatlm import (
    Message,
    Part,
    Reasoning,
    Role,
    Sampling,
    StopReason,
    Text,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
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
    MAX_TOP_LOGPROBS,
    GenerationRequest,
    split_conversation,
)
from chatlm_serve.images import image_from_url
from chatlm_serve.protocols.openai_fields import (
    HINTS,
    SAMPLING_FIELDS,
    parse_effort,
    parse_schema_format,
    parse_tools,
    sampling_values,
)
from chatlm_serve.protocols.openai_messages import ROLES
from chatlm_serve.reply_events import (
    ReasoningDelta,
    ReplyEnded,
    ReplyEvent,
    TextDelta,
    WholeReply,
)
from chatlm_serve.reply_service import ReplyService
from chatlm_serve.replying import SSE, reply_route, server_sent_event

NEUTRAL_VALUES: Mapping[str, Any] = {"store": False, "background": False, "truncation": "disabled"}
"""Unsupported fields, each with the only accepted value, which has no effect."""

MEMORY_FIELDS = ("previous_response_id", "conversation", "prompt")
"""Fields that refer to something that a server would have to remember."""

INCLUDES = ("message.output_text.logprobs", "reasoning.encrypted_content")
"""What `include` may name; thoughts are sent as text and never encrypted."""

KNOWN_FIELDS = frozenset(
    (
        "model", "input", "instructions", "max_output_tokens", "tools", "tool_choice",
        "parallel_tool_calls", "text", "reasoning", "stream", "stream_options", "include",
        "top_logprobs", *SAMPLING_FIELDS, *NEUTRAL_VALUES, *HINTS,
    )
)  # fmt: skip

_ITEM_FIELDS: Mapping[str, tuple[str, ...]] = {
    "message": ("role", "content", "phase"),
    "function_call": ("call_id", "name", "arguments", "namespace"),
    "function_call_output": ("call_id", "output"),
    "reasoning": ("summary", "content", "encrypted_content"),
}
"""Fields of each type of item, besides its type, id and status."""

_TEXT_PARTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal")


def routes(service: ReplyService) -> list[Route]:
    """Return the endpoint."""
    return [reply_route("/v1/responses", service, parse_response_request)]


def parse_response_request(body: Mapping[str, Any]) -> tuple[GenerationRequest, ResponseFormat]:
    """Parse and validate a request body.

    Args:
        body: the decoded JSON; null fields count as missing.

    Raises:
        ApiError: a field, which is named, is missing, invalid or unsupported.
    """
    fields = without_nulls(body, "body")
    for name in MEMORY_FIELDS:
        if name in fields:
            raise unsupported_error(
                name, "is not supported: nothing is remembered. Send the whole conversation."
            )
    refuse_unknown(fields, KNOWN_FIELDS)
    if fields.get("store") is True:  # what clients send that do not care, and is not promised
        fields = {name: value for name, value in fields.items() if name != "store"}
    check_neutral(fields, NEUTRAL_VALUES)
    options = get_typed(fields, "stream_options", dict, {})
    refuse_unknown(options, ("include_obfuscation",), "stream_options.")
    values = sampling_values(fields, ("max_output_tokens",))
    thinking_field, thinking = _parse_reasoning(fields)
    if thinking:
        values["thinking"] = thinking
    text = get_typed(fields, "text", dict, {})
    refuse_unknown(text, ("format", "verbosity"), "text.")
    check_neutral(without_nulls(text, "text"), {"verbosity": "medium"}, "text.")
    output_format = get_typed(without_nulls(text, "text"), "format", dict, {"type": "text"})
    refuse_unknown(
        output_format, ("type", "name", "description", "schema", "strict"), "text.format."
    )
    path = "text.format."
    values["schema"] = parse_schema_format(output_format, path, output_format, path)
    tools, tool_choice, parallel = parse_tools(fields, nested=False)
    request = GenerationRequest(
        model=get_typed(fields, "model", str),
        conversation=split_conversation(_parse_input(fields), path="input"),
        sampling=Sampling.from_dict(values),
        thinking_field=thinking_field,
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=parallel,
        logprobs=_parse_logprobs(fields),
        stream=get_typed(fields, "stream", bool, False),
    )
    return request, ResponseFormat(fields, output_format)


def _parse_reasoning(fields: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the field that sets thinking, and the value for `Sampling.thinking`."""
    values = without_nulls(get_typed(fields, "reasoning", dict, {}), "reasoning")
    # a summary would be another text; the thought itself is always sent
    refuse_unknown(values, ("effort", "summary", "generate_summary"), "reasoning.")
    name = "reasoning.effort"
    return name, parse_effort(values["effort"], name) if "effort" in values else None


def _parse_logprobs(fields: Mapping[str, Any]) -> int | None:
    include = get_typed(fields, "include", list, [])
    for index, name in enumerate(include):
        if name not in INCLUDES:
            raise unsupported_error(f"include[{index}]", f"must be one of {', '.join(INCLUDES)}.")
    top = get_typed(fields, "top_logprobs", int, 0)
    if not 0 <= top <= MAX_TOP_LOGPROBS:
        raise field_error("top_logprobs", f"must be 0 to {MAX_TOP_LOGPROBS}, not {top:,}.")
    return top if top or INCLUDES[0] in include else None


def _parse_input(fields: Mapping[str, Any]) -> list[Message]:
    value = fields.get("input")
    instructions = get_typed(fields, "instructions", str, "")
    first = [Message("system", instructions)] if instructions else []
    if isinstance(value, str):
        return [*first, Message("user", value)]
    items = get_typed(fields, "input", list)
    return [*first, *(_parse_item(item, f"input[{at}]") for at, item in enumerate(items))]


def _parse_item(item: Any, path: str) -> Message:
    fields = without_nulls(item, path)
    kind = get_typed(fields, "type", str, "message", f"{path}.")
    if kind not in _ITEM_FIELDS:
        raise field_error(
            f"{path}.type",
            f"must be {', '.join(_ITEM_FIELDS)}, not {one_line(kind, 40)!r}.",
            "unsupported_value",
        )
    refuse_unknown(fields, ("type", "id", "status", *_ITEM_FIELDS[kind]), f"{path}.")
    if kind == "message":
        name = get_typed(fields, "role", str, path=f"{path}.")
        if name not in ROLES or name == "tool":
            raise field_error(
                f"{path}.role",
                f"must be user, assistant, system or developer, not {one_line(name, 40)!r}.",
            )
        role: Role = ROLES[name]
        if role == "user" and isinstance(fields.get("content"), list):
            return Message(role, _parse_parts(fields, "content", path))
        return Message(role, _parse_texts(fields, "content", path))
    if kind == "reasoning":
        thought = _parse_texts(fields, "content", path) if fields.get("content") else ""
        return Message("assistant", (Reasoning(thought),) if thought else ())
    call_id = get_typed(fields, "call_id", str, path=f"{path}.")
    if kind == "function_call_output":
        if not isinstance(fields.get("output"), list):
            text = get_typed(fields, "output", str, path=f"{path}.")
            return Message("tool", (ToolResult(call_id, "", text),))
        output = Message("tool", _parse_parts(fields, "output", path))
        images = (part for part in output.parts if not isinstance(part, Text))
        return Message("tool", (ToolResult(call_id, "", output.text), *images))
    name = get_typed(fields, "name", str, path=f"{path}.")
    arguments = get_typed(fields, "arguments", str, path=f"{path}.")
    return Message("assistant", (ToolCall(call_id, name, arguments),))


def _parse_parts(fields: Mapping[str, Any], name: str, path: str) -> list[Part]:
    """Return the texts and images of a list."""
    return [
        _parse_text_or_image(part, f"{path}.{name}[{at}]") for at, part in enumerate(fields[name])
    ]


def _parse_text_or_image(part: Any, path: str) -> Part:
    if not isinstance(part, dict) or part.get("type") != "input_image":
        return Text(_parse_text(part, path))
    fields = without_nulls(part, path)
    refuse_unknown(fields, ("type", "image_url", "detail"), f"{path}.")
    return image_from_url(get_typed(fields, "image_url", str, path=f"{path}."), f"{path}.image_url")


def _parse_texts(fields: Mapping[str, Any], name: str, path: str) -> str:
    """Return a text, or the texts of a list of parts."""
    if not isinstance(fields.get(name), list):
        return get_typed(fields, name, str, path=f"{path}.")
    return "".join(
        _parse_text(part, f"{path}.{name}[{index}]") for index, part in enumerate(fields[name])
    )


def _parse_text(part: Any, path: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _TEXT_PARTS:
        raise field_error(path, "only parts with text are supported.", "unsupported_value")
    return get_typed(part, "refusal" if kind == "refusal" else "text", str, path=f"{path}.")


_STATUS: Mapping[StopReason, tuple[str, str]] = {
    StopReason.LENGTH: ("incomplete", "max_output_tokens"),
    StopReason.CONTEXT_FULL: ("incomplete", "max_output_tokens"),
    StopReason.REFUSAL: ("incomplete", "content_filter"),
    StopReason.CONTENT_FILTER: ("incomplete", "content_filter"),
}
"""Status and reason of replies that were cut; all others are complete."""


@dataclass
class _Item:
    """An item of the output that grows."""

    type: str
    """`reasoning`, `message` or `function_call`."""
    id: str
    index: int
    """Its place in the output."""
    call_id: str = ""
    name: str = ""
    text: str = ""
    """The thought, the answer or the arguments so far."""
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self, status: str) -> dict[str, Any]:
        """Return the item in OpenAI's format."""
        common = {"id": self.id, "type": self.type, "status": status}
        content = [self.part()] if self.text or status != "in_progress" else []
        if self.type == "message":
            return common | {"role": "assistant", "content": content}
        if self.type == "reasoning":
            return common | {"summary": [], "content": content}
        return common | {"call_id": self.call_id, "name": self.name, "arguments": self.text}

    def part(self) -> dict[str, Any]:
        """Return the content."""
        if self.type == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": self.logprobs,
        }


class ResponseFormat:
    """Formats a reply as a response, whole or as events.

    Args:
        fields: those of the request, which the response repeats.
        output_format: the format of its text.
    """

    media_type = SSE

    def __init__(self, fields: Mapping[str, Any], output_format: Mapping[str, Any]) -> None:
        self._fields = fields
        self._output_format = output_format
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._items: list[_Item] = []
        self._open: _Item | None = None
        self._sent = 0
        """Events so far."""

    def whole(self, replies: Sequence[WholeReply]) -> dict[str, Any]:
        """Return the complete response body."""
        (only,) = replies
        if only.reasoning:
            self._new_item("reasoning").text = only.reasoning
        if only.text or not only.end.tool_calls:
            message = self._new_item("message")
            message.text, message.logprobs = only.text, _logprobs(only.logprobs)
        for call in only.end.tool_calls:
            item = self._new_item("function_call", call.id, call.name)
            item.text = call.arguments
        return self._ended(only.end, only.end.stop_reason)

    def begin(self) -> str:
        """Return the events before the reply."""
        running = {"response": self._response("in_progress", [])}
        return self._event("response.created", running) + self._event(
            "response.in_progress", running
        )

    def event(self, choice: int, event: ReplyEvent) -> str:
        """Format an event."""
        match event:
            case ReasoningDelta(text):
                return self._add_text("reasoning", text, ())
            case TextDelta(text, logprobs, repeats_call=False):
                return self._add_text("message", text, logprobs)
            case ToolCallDelta():
                return self._add_call(event)
            case ReplyEnded():
                return self._finish(event)
        return ""

    def end(self) -> str:
        """Return nothing: the last event ends a response."""
        return ""

    def failure(self, error: ApiError) -> str:
        """Return the event of a response that failed."""
        items = [item.to_dict("incomplete") for item in self._items]
        said = {"code": error.code or "server_error", "message": error.message}
        response = self._response("failed", items) | {"error": said}
        return self._event("response.failed", {"response": response})

    def _finish(self, event: ReplyEnded) -> str:
        texts = ""
        if not self._items:
            texts = self._begin_item("message")
        texts += self._close_item("incomplete" if event.cut_call else "completed")
        response = self._ended(event, event.streamed_reason)
        name = f"response.{response['status']}"
        return texts + self._event(name, {"response": response})

    def _add_text(self, kind: str, text: str, logprobs: Sequence[TokenLogprob]) -> str:
        texts = ""
        if self._open is None or self._open.type != kind:
            texts = self._close_item() + self._begin_item(kind)
        item = self._items[-1]
        item.text += text
        place = {"item_id": item.id, "output_index": item.index, "content_index": 0}
        if kind == "reasoning":
            return texts + self._event("response.reasoning_text.delta", place | {"delta": text})
        added = _logprobs(logprobs)
        item.logprobs += added
        return texts + self._event(
            "response.output_text.delta", place | {"delta": text, "logprobs": added}
        )

    def _add_call(self, delta: ToolCallDelta) -> str:
        texts = ""
        if delta.id:
            texts = self._close_item() + self._begin_item("function_call", delta.id, delta.name)
        item = self._items[-1]
        if not delta.arguments:
            return texts
        item.text += delta.arguments
        place = {"item_id": item.id, "output_index": item.index}
        return texts + self._event(
            "response.function_call_arguments.delta", place | {"delta": delta.arguments}
        )

    def _new_item(self, kind: str, call_id: str = "", name: str = "") -> _Item:
        prefix = {"reasoning": "rs", "message": "msg", "function_call": "fc"}[kind]
        item = _Item(kind, f"{prefix}_{uuid.uuid4().hex}", len(self._items), call_id, name)
        self._items.append(item)
        return item

    def _begin_item(self, kind: str, call_id: str = "", name: str = "") -> str:
        item = self._open = self._new_item(kind, call_id, name)
        text = self._event(
            "response.output_item.added",
            {"output_index": item.index, "item": item.to_dict("in_progress")},
        )
        if kind == "function_call":
            return text
        place = {"item_id": item.id, "output_index": item.index, "content_index": 0}
        return text + self._event("response.content_part.added", place | {"part": item.part()})

    def _close_item(self, status: str = "completed") -> str:
        item, self._open = self._open, None
        if item is None:
            return ""
        place = {"item_id": item.id, "output_index": item.index}
        if item.type == "function_call":
            said = {"arguments": item.text, "name": item.name}
            text = self._event("response.function_call_arguments.done", place | said)
        else:
            place["content_index"] = 0
            done: dict[str, Any] = {"text": item.text}
            name = "response.reasoning_text.done"
            if item.type == "message":
                name, done = "response.output_text.done", done | {"logprobs": item.logprobs}
            text = self._event(name, place | done)
            text += self._event("response.content_part.done", place | {"part": item.part()})
        return text + self._event(
            "response.output_item.done",
            {"output_index": item.index, "item": item.to_dict(status)},
        )

    def _event(self, name: str, values: Mapping[str, Any]) -> str:
        number, self._sent = self._sent, self._sent + 1
        return server_sent_event({"type": name, "sequence_number": number, **values}, name)

    def _ended(self, end: ReplyEnded, stop_reason: StopReason) -> dict[str, Any]:
        status, reason = _STATUS.get(stop_reason, ("completed", ""))
        items = [item.to_dict("completed") for item in self._items]
        if items and status != "completed":
            items[-1]["status"] = status
        details = {"incomplete_details": {"reason": reason} if reason else None}
        return self._response(status, items) | details | {"usage": _usage(end.usage)}

    def _response(self, status: str, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        get = self._fields.get
        effort = get("reasoning", {}).get("effort")
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": get("instructions"),
            "max_output_tokens": get("max_output_tokens"),
            "metadata": get("metadata", {}),
            "model": get("model"),
            "output": list(items),
            "parallel_tool_calls": get("parallel_tool_calls", True),
            "previous_response_id": None,
            "reasoning": {"effort": effort, "summary": None},
            "store": False,
            "temperature": get("temperature"),
            "text": {"format": self._output_format},
            "tool_choice": get("tool_choice", "auto"),
            "tools": get("tools", []),
            "top_logprobs": get("top_logprobs", 0),
            "top_p": get("top_p"),
            "truncation": "disabled",
            "usage": None,
            "user": get("user"),
        }


def _logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [token.to_dict() for token in tokens]


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
