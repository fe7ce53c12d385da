"""Ollama's replies: `POST /api/chat` and `POST /api/generate`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chatlm import (
    Message,
    Part,
    Reasoning,
    Role,
    StopReason,
    Text,
    TokenLogprob,
    ToolCall,
    ToolResult,
    one_line,
)
from chatlm_serve.errors import ApiError, field_error
from chatlm_serve.fields import (
    get_typed,
    refuse_unknown,
    unsupported_error,
    without_nulls,
)
from chatlm_serve.generation_request import (
    ClientConversation,
    GenerationRequest,
    TextPrompts,
    split_conversation,
)
from chatlm_serve.http_guard import read_json_body
from chatlm_serve.images import ClientImage, image_from_base64
from chatlm_serve.protocols.ollama_fields import (
    error_body,
    parse_keep_alive,
    parse_logprobs,
    parse_think,
    sampling_of,
)
from chatlm_serve.protocols.openai_fields import parse_tools
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
from chatlm_serve.replying import reply_to, while_connected

NDJSON = "application/x-ndjson"
"""Media type of a stream: a JSON object in each line."""

_COMMON_FIELDS = (
    "model", "stream", "format", "options", "keep_alive", "think", "logprobs", "top_logprobs",
    "truncate", "shift",
)  # fmt: skip
"""`truncate` and `shift` drop old messages of a chat that does not fit, which is refused here."""

CHAT_FIELDS = frozenset(("messages", "tools", *_COMMON_FIELDS))

GENERATE_FIELDS = frozenset(
    ("prompt", "system", "images", "suffix", "template", "raw", "context", *_COMMON_FIELDS)
)

_NEUTRAL_VALUES: Mapping[str, Any] = {
    "template": "",
    "context": [],
}
"""Unsupported fields, each with the value that has no effect."""

_MESSAGE_FIELDS: Mapping[str, tuple[str, ...]] = {
    "system": (),
    "user": (),
    "assistant": ("thinking", "tool_calls"),
    "tool": ("tool_name", "tool_call_id", "name"),
}
"""Fields of each role, besides role, content and images."""

DONE_REASONS: Mapping[StopReason, str] = {
    StopReason.LENGTH: "length",
    StopReason.CONTEXT_FULL: "length",
}
"""Ollama's words for stop reasons; all others are `stop`."""

Kind = Literal["chat", "generate"]


def routes(service: ReplyService) -> list[Route]:
    """Return the endpoints."""
    return [
        Route("/api/chat", partial(_create, service, "chat"), methods=["POST"]),
        Route("/api/generate", partial(_create, service, "generate"), methods=["POST"]),
    ]


async def _create(service: ReplyService, kind: Kind, request: Request) -> Response:
    body = await read_json_body(request)
    if not body.get("messages" if kind == "chat" else "prompt"):
        return await _load(service, kind, body, request)
    parse = parse_chat_request if kind == "chat" else parse_generate_request
    return await reply_to(request, body, service, parse)


async def _load(
    service: ReplyService, kind: Kind, body: Mapping[str, Any], request: Request
) -> Response:
    """Load a model without a reply, or free it if it shall not be kept at all."""
    fields = without_nulls(body, "body")
    refuse_unknown(fields, CHAT_FIELDS if kind == "chat" else GENERATE_FIELDS)
    model, keep_seconds = get_typed(fields, "model", str), parse_keep_alive(fields)
    await while_connected(request, service.load(model, keep_seconds))
    form = OllamaFormat(model, kind)
    reason = "unload" if keep_seconds == 0 else "load"
    done = form.chunk("", done=True) | {"done_reason": reason}
    if get_typed(fields, "stream", bool, True):
        return Response(_line(done), media_type=NDJSON)
    return JSONResponse(done)


def parse_chat_request(body: Mapping[str, Any]) -> tuple[GenerationRequest, OllamaFormat]:
    """Parse and validate the body of a chat.

    Args:
        body: the decoded JSON; null fields count as missing.

    Raises:
        ApiError: a field, which is named, is missing, invalid or unsupported.
    """
    fields = without_nulls(body, "body")
    refuse_unknown(fields, CHAT_FIELDS)
    messages = _parse_messages(get_typed(fields, "messages", list))
    return _parse_request(fields, _conversation(messages), "chat")


def parse_generate_request(body: Mapping[str, Any]) -> tuple[GenerationRequest, OllamaFormat]:
    """Parse and validate the body of a single prompt; raises as `parse_chat_request`."""
    fields = without_nulls(body, "body")
    refuse_unknown(fields, GENERATE_FIELDS)
    for name, neutral in _NEUTRAL_VALUES.items():
        hint = ": send the earlier messages to /api/chat" if name == "context" else ""
        if name in fields and fields[name] != neutral:
            raise unsupported_error(name, f"is not supported{hint}.")
    prompt, system = get_typed(fields, "prompt", str), get_typed(fields, "system", str, "")
    suffix = get_typed(fields, "suffix", str, "")
    if suffix or get_typed(fields, "raw", bool, False):
        if system or fields.get("think"):
            name = "system" if system else "think"
            raise unsupported_error(name, "cannot be combined with raw or suffix.")
        if fields.get("images"):
            raise unsupported_error("images", "cannot be combined with raw or suffix.")
        return _parse_request(fields, TextPrompts((prompt,), suffix or None), "generate")
    user = Message("user", [*_parse_images(fields), Text(prompt)])
    messages = [*([Message("system", system)] if system else []), user]
    return _parse_request(fields, _conversation(messages), "generate")


def _conversation(messages: Sequence[Message]) -> ClientConversation:
    return split_conversation(messages, may_continue=True)


def _parse_request(
    fields: Mapping[str, Any], conversation: ClientConversation | TextPrompts, kind: Kind
) -> tuple[GenerationRequest, OllamaFormat]:
    model = get_typed(fields, "model", str)
    for name in ("truncate", "shift"):
        get_typed(fields, name, bool, False)
    thinking, is_switch = parse_think(fields)
    tools, _, _ = parse_tools({"tools": fields.get("tools", [])}, nested=True)
    request = GenerationRequest(
        model=model,
        conversation=conversation,
        sampling=sampling_of(fields, thinking),
        thinking_field="think",
        thinking_is_switch=is_switch,
        tools=tools,
        logprobs=parse_logprobs(fields),
        stream=get_typed(fields, "stream", bool, True),
        keep_seconds=parse_keep_alive(fields),
    )
    return request, OllamaFormat(model, kind)


def _parse_messages(values: Sequence[Any]) -> list[Message]:
    """Read messages; a call gets an id, which its result has, too, in the order of the calls."""
    messages: list[Message] = []
    open_calls: list[ToolCall] = []
    for index, value in enumerate(values):
        path = f"messages[{index}]"
        fields = without_nulls(value, path)
        role = get_typed(fields, "role", str, path=f"{path}.")
        if role not in _MESSAGE_FIELDS:
            raise field_error(
                f"{path}.role",
                f"must be {', '.join(_MESSAGE_FIELDS)}, not {one_line(role, 40)!r}.",
            )
        refuse_unknown(fields, ("role", "content", "images", *_MESSAGE_FIELDS[role]), f"{path}.")
        images = _parse_images(fields, f"{path}.")
        if images and role not in ("user", "tool"):
            raise unsupported_error(
                f"{path}.images", "is supported in messages of the user and of tools."
            )
        text = get_typed(fields, "content", str, "", f"{path}.")
        parts: list[Part] = [*images, *([Text(text)] if text else [])]
        if role == "tool":
            call = _take_call(open_calls, fields, path)
            parts = [ToolResult(call.id, call.name, text), *images]
        elif role == "assistant":
            if thought := get_typed(fields, "thinking", str, "", f"{path}."):
                parts.insert(0, Reasoning(thought))
            open_calls = list(_parse_calls(fields, path, index))
            parts += open_calls
        names: dict[str, Role] = {
            "system": "system", "user": "user", "assistant": "assistant", "tool": "tool",
        }  # fmt: skip
        messages.append(Message(names[role], parts))
    return messages


def _parse_images(fields: Mapping[str, Any], path: str = "") -> list[ClientImage]:
    """Read the images of a message or a prompt, which come before its text."""
    return [
        image_from_base64(
            get_typed({"data": value}, "data", str, path=f"{path}images[{at}]."),
            f"{path}images[{at}]",
        )
        for at, value in enumerate(get_typed(fields, "images", list, [], path))
    ]


def _parse_calls(fields: Mapping[str, Any], path: str, index: int) -> Iterator[ToolCall]:
    for number, value in enumerate(get_typed(fields, "tool_calls", list, [], f"{path}.")):
        place = f"{path}.tool_calls[{number}]"
        call = without_nulls(value, place)
        refuse_unknown(call, ("id", "type", "function"), f"{place}.")
        function = without_nulls(call.get("function"), f"{place}.function")
        refuse_unknown(function, ("index", "name", "arguments"), f"{place}.function.")
        arguments = get_typed(function, "arguments", dict, {}, f"{place}.function.")
        yield ToolCall(
            get_typed(call, "id", str, f"call_{index}_{number}", f"{place}."),
            get_typed(function, "name", str, path=f"{place}.function."),
            json.dumps(arguments, ensure_ascii=False),
        )


def _take_call(calls: list[ToolCall], fields: Mapping[str, Any], path: str) -> ToolCall:
    """Return the call that a result belongs to: by its id, else by its name, else the next one."""
    call_id = get_typed(fields, "tool_call_id", str, "", f"{path}.")
    name = get_typed(fields, "tool_name", str, "", f"{path}.")
    name = name or get_typed(fields, "name", str, "", f"{path}.")
    for call in calls:
        if call_id in ("", call.id) and (call_id or name in ("", call.name)):
            calls.remove(call)
            return call
    raise field_error(path, "the result does not follow a message with that tool call.")


class OllamaFormat:
    """Formats a reply as Ollama does, whole or streamed.

    Args:
        model: the model's name in the request.
        kind: which endpoint answers.
    """

    media_type = NDJSON

    def __init__(self, model: str, kind: Kind) -> None:
        self._model = model
        self._kind = kind
        self._began = time.monotonic()
        self._loaded_after = 0.0
        """Seconds until the prompt was read."""

    def whole(self, replies: Sequence[WholeReply]) -> dict[str, Any]:
        """Return the complete response body."""
        each = replies[0]
        body = self.chunk(each.text, thinking=each.reasoning, calls=each.end.tool_calls, done=True)
        return body | _logprobs(each.logprobs) | self._ending(each.end)

    def begin(self) -> str:
        """Return nothing: the stream begins with the reply's first text."""
        return ""

    def event(self, choice: int, event: ReplyEvent) -> str:
        """Format an event."""
        match event:
            case ReplyStarted():
                self._loaded_after = time.monotonic() - self._began
            case TextDelta(text, logprobs):
                return _line(self.chunk(text) | _logprobs(logprobs))
            case ReasoningDelta(text):
                return _line(self.chunk("", thinking=text))
            case ReplyEnded():
                calls = event.tool_calls
                before = _line(self.chunk("", calls=calls)) if calls else ""
                return before + _line(self.chunk("", done=True) | self._ending(event))
        return ""

    def end(self) -> str:
        """Return nothing: the reply's end is the last line."""
        return ""

    def failure(self, error: ApiError) -> str:
        """Return the error as the last line."""
        return _line(error_body(error))

    def chunk(
        self,
        text: str,
        *,
        thinking: str = "",
        calls: Sequence[ToolCall] = (),
        done: bool = False,
    ) -> dict[str, Any]:
        """Return an object with some of the reply."""
        head = {"model": self._model, "created_at": _now()}
        thoughts = {"thinking": thinking} if thinking else {}
        if self._kind == "generate":
            return head | {"response": text} | thoughts | {"done": done}
        message: dict[str, Any] = {"role": "assistant", "content": text} | thoughts
        if calls:
            message["tool_calls"] = [_call_object(*each) for each in enumerate(calls)]
        return head | {"message": message, "done": done}

    def _ending(self, end: ReplyEnded) -> dict[str, Any]:
        usage = end.usage
        return {
            "done_reason": DONE_REASONS.get(end.stop_reason, "stop"),
            "total_duration": _nanoseconds(time.monotonic() - self._began),
            "load_duration": _nanoseconds(self._loaded_after),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(usage.first_token_seconds or 0.0),
            "eval_count": usage.completion_tokens,
            "eval_duration": _nanoseconds(usage.decode_seconds),
        }


def _call_object(index: int, call: ToolCall) -> dict[str, Any]:
    function = {"index": index, "name": call.name, "arguments": call_arguments(call)}
    return {"id": call.id, "function": function}


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"logprobs": [token.to_dict() for token in tokens]} if tokens else {}


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
