"""Parser for chats in OpenAI's format: `{"messages": [{"role": …, "content": …}, …]}`."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from chatlm.store.blobs import describe_image
from chatlm.store.importing.chatlm_jsonl import parse_part
from chatlm.store.importing.fields import JsonObject, ParsedChat
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.messages import Message
from chatlm.types.parts import File, Image, Part, Reasoning, Text, ToolCall, ToolResult
from chatlm.types.replies import Reply, ReplyStep, StopReason


@dataclass
class _Exchange:
    """A user message and the steps of the reply to it."""

    question: list[Part]
    steps: list[list[Part]] = field(default_factory=list)
    refused: bool = False
    """Whether the newest output is a refusal."""

    def add_output(self, parts: list[Part]) -> None:
        """Add an assistant message; after tool calls it is another step, else it is joined."""
        if not self.steps or any(isinstance(p, ToolCall | ToolResult) for p in self.steps[-1]):
            self.steps.append([])
        step = self.steps[-1]
        last, first = step[-1] if step else None, parts[0]
        if isinstance(last, Text) and isinstance(first, Text):
            step[-1] = Text(f"{last.text}\n\n{first.text}")
            parts = parts[1:]
        step += parts

    def add_result(self, call_id: str, text: str) -> bool:
        """Add a tool result; returns whether the last step has a call with this id."""
        for part in self.steps[-1] if self.steps else ():
            if isinstance(part, ToolCall) and part.id == call_id:
                self.steps[-1].append(ToolResult(call_id, part.name, text))
                return True
        return False


def parse_openai_messages(value: Any, default_time: datetime) -> ParsedChat:
    """Parse a chat; its first system messages are the system prompt.

    Left out and counted: results of unknown tool calls, content parts of other types, later system
    messages, and assistant messages before any user message. Adjacent assistant messages are one
    reply; tool calls and their results are steps of it.

    Args:
        value: the object.
        default_time: the chat's time, since the format has none.

    Raises:
        InvalidChat: a role or the type of a content is unknown, or there is no user message.
    """
    chat = JsonObject(value)
    system: list[str] = []
    exchanges: list[_Exchange] = []
    left_out: Counter[str] = Counter()
    blobs: dict[str, bytes] = {}
    for message in chat.object_array("messages"):
        role = message.text("role")
        parts = _parse_content(message, blobs, left_out)
        match role:
            case "system" | "developer" if not exchanges:
                system.append(Message("system", parts).text)
            case "user":
                exchanges.append(_Exchange(parts))
            case "assistant" if not exchanges:
                left_out["assistant messages before the first question"] += 1
            case "assistant":
                refusal = message.optional_text("refusal")
                parts += [Text(refusal)] if refusal else []
                output = [*_parse_reasoning(message), *parts, *_parse_calls(message, left_out)]
                if output:
                    exchanges[-1].add_output(output)
                    exchanges[-1].refused = bool(refusal)
                else:
                    left_out["assistant messages without text"] += 1
            case "system" | "developer":
                left_out["later system messages"] += 1
            case "tool":
                call_id = message.optional_text("tool_call_id") or ""
                text = Message("tool", parts).text
                if not exchanges or not exchanges[-1].add_result(call_id, text):
                    left_out["tool messages"] += 1
            case "function":
                left_out["function messages"] += 1
            case _:
                raise message.error("role must be system, user, assistant or tool")
    if not exchanges:
        raise chat.error("no user message")
    turns = tuple(_build_turn(n, exchange, default_time) for n, exchange in enumerate(exchanges))
    conversation = Conversation(
        id=0, system="\n\n".join(system), turns=turns, created=default_time, updated=default_time
    )
    return ParsedChat(conversation, created_known=False, blobs=blobs.get, left_out=left_out)


def _build_turn(number: int, exchange: _Exchange, time: datetime) -> Turn:
    steps = [ReplyStep(tuple(parts), _stop_reason(parts)) for parts in exchange.steps]
    if exchange.refused:
        steps[-1] = dataclasses.replace(steps[-1], stop_reason=StopReason.REFUSAL)
    replies = (Reply(number, 1, created=time, steps=steps),) if steps else ()
    return Turn(number, number, Message("user", exchange.question), replies, created=time)


def _stop_reason(parts: list[Part]) -> StopReason:
    called = any(isinstance(part, ToolCall) for part in parts)
    return StopReason.TOOL_CALLS if called else StopReason.END


def _parse_reasoning(message: JsonObject) -> Iterator[Reasoning]:
    if text := message.optional_text("reasoning_content"):
        yield Reasoning(text)


def _parse_calls(message: JsonObject, left_out: Counter[str]) -> Iterator[ToolCall]:
    if message.value.get("tool_calls") is None:
        return
    for call in message.object_array("tool_calls"):
        kind = call.text("type", "function")
        if kind != "function":
            left_out[f"tool calls of type {kind[:40]}"] += 1
            continue
        function = call.nested("function")
        arguments = function.value.get("arguments", "{}")
        if not isinstance(arguments, str):  # some trainers' files have the object itself
            arguments = json.dumps(arguments, ensure_ascii=False)
        yield ToolCall(call.text("id", ""), function.text("name"), arguments)


def _parse_content(
    message: JsonObject, blobs: dict[str, bytes], left_out: Counter[str]
) -> list[Part]:
    content = message.value.get("content")
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content)] if content else []
    parts: list[Part] = []
    for item in message.array("content"):
        if isinstance(item, str):
            parts.append(Text(item))
            continue
        fields = JsonObject(item, f"{message.location}, part")
        kind = fields.text("type")
        part = _parse_content_part(kind, fields, blobs)
        if part is not None:
            parts.append(part)
        else:
            left_out[f"parts of type {kind[:40]}"] += 1
    if all(isinstance(part, Text) for part in parts):
        text = "\n\n".join(part.text for part in parts if isinstance(part, Text))
        return [Text(text)] if text else []
    return parts


def _parse_content_part(kind: str, fields: JsonObject, blobs: dict[str, bytes]) -> Part | None:
    """Parse a text, a text file or an image, whose bytes are added to `blobs`; None for anything
    else.
    """
    match kind:
        case "text" | "input_text" | "output_text":
            return Text(fields.text("text"))
        case "file":
            return _parse_file(fields.nested("file"))
        case "image_url":
            return _parse_image(fields, blobs)
        case _:
            return None


def _parse_image(fields: JsonObject, blobs: dict[str, bytes]) -> Image | None:
    """Parse an image in a data URL, or one of which chatlm exported all but the bytes."""
    exported = parse_part(fields.nested("image")) if "image" in fields.value else None
    exported = exported if isinstance(exported, Image) else None
    link = fields.value.get("image_url")
    url = link.get("url") if isinstance(link, dict) else link
    _, content = _parse_data_url(url if isinstance(url, str) else "")
    if content is None:
        return exported
    image = describe_image(content, exported.name if exported else "")
    if image is not None:
        blobs[image.sha256] = content
    return image


def _parse_file(fields: JsonObject) -> File | None:
    """Parse a file whose data URL is base64 of UTF-8 text; None for any other."""
    media_type, content = _parse_data_url(fields.optional_text("file_data") or "")
    if content is None:
        return None
    try:
        return File(fields.text("filename", ""), content.decode(), media_type)
    except UnicodeDecodeError:
        return None


def _parse_data_url(url: str) -> tuple[str, bytes | None]:
    """Return the media type and the bytes of a data URL in base64; None for any other URL."""
    header, _, data = url.partition(";base64,")
    if not header.startswith("data:"):
        return "", None
    try:
        return header.removeprefix("data:"), base64.b64decode(data, validate=True)
    except binascii.Error:
        return "", None
