"""Parser for chats in chatlm's own JSON lines."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
from enum import StrEnum
from typing import Any, TypeVar, get_args

from chatlm.errors import UsageError
from chatlm.store.importing.fields import MAX_INTEGER, InvalidChat, JsonObject, ParsedChat
from chatlm.store.rows import read_stop_reason, reply_error
from chatlm.types.conversations import ContextPolicy, Conversation, PluginData, Turn
from chatlm.types.messages import Annotation, Message, Passage, Role
from chatlm.types.parts import (
    TOOL_OUTCOMES,
    File,
    Image,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolOutcome,
    ToolResult,
)
from chatlm.types.projects import Project
from chatlm.types.provenance import Call, Change, Provenance, Trace
from chatlm.types.replies import Reply, ReplyStep, Usage
from chatlm.types.sampling import Sampling
from chatlm.types.tool_rules import ChatTools

EnumT = TypeVar("EnumT", bound=StrEnum)


def parse_chatlm(value: Any) -> ParsedChat:
    """Parse a chat with everything stored with it; `forked_from` is an id elsewhere and is dropped.

    Raises:
        InvalidChat: a field is missing or invalid.
    """
    return _ChatlmParser(JsonObject(value)).parse()


class _ChatlmParser:
    def __init__(self, chat: JsonObject) -> None:
        self._chat = chat
        self._passages: dict[int, list[Passage]] = {}
        self._annotations: dict[int, list[tuple[int | None, Annotation]]] = {}
        self._provenance: dict[int, Provenance] = {}
        self._traces: dict[int, list[Trace]] = {}
        self._reply_count = 0

    def parse(self) -> ParsedChat:
        chat = self._chat
        conversation = Conversation(
            id=0,
            title=chat.text("title"),
            system=chat.text("system"),
            created=chat.time("created"),
            updated=chat.time("updated"),
            sampling=_parse_sampling(chat.nested("sampling")),
            pinned=chat.boolean("pinned"),
            plugin_data=_parse_plugin_data(chat),
            disabled_plugins=frozenset(chat.text_array("without")),
            project=_parse_project(chat),
            tags=_parse_tags(chat),
            tools=_parse_tools(chat),
            turns=tuple(
                self._parse_turn(n, turn) for n, turn in enumerate(chat.object_array("turns"))
            ),
        )
        return ParsedChat(
            conversation,
            created_known=True,
            passages=self._passages,
            annotations=self._annotations,
            provenance=self._provenance,
            traces=self._traces,
            blobs=_parse_blobs(chat.nested("blobs")).get,
        )

    def _parse_turn(self, number: int, turn: JsonObject) -> Turn:
        ids: dict[int, int] = {}
        replies: list[Reply] = []
        for fields in turn.object_array("replies"):
            self._reply_count += 1
            ids[fields.non_negative_int("id")] = self._reply_count
            replies.append(self._parse_reply(fields, len(replies) + 1))
        if len(ids) < len(replies):
            raise turn.error("two replies have one id")
        self._passages[number] = [
            Passage(
                p.text("text"),
                p.text("source"),
                p.number("score") or 0.0,
                _parse_json_values(p, "details"),
                _parse_images(p),
            )
            for p in turn.object_array("passages")
        ]
        self._annotations[number] = [
            (_parse_reply_id(label, "reply", ids), _parse_annotation(label))
            for label in turn.object_array("annotations")
        ]
        self._traces[number] = [
            Trace(
                tuple(map(_parse_call, trace.object_array("calls"))),
                _parse_reply_id(trace, "reply", ids),
            )
            for trace in turn.object_array("traces")
        ]
        return Turn(
            id=number,
            position=number,
            user=Message("user", _parse_parts(turn) or turn.text("content")),
            replies=tuple(replies),
            active_reply_id=_parse_reply_id(turn, "chosen", ids),
            created=turn.time("created"),
            context_policy=_parse_enum(ContextPolicy, turn, "standing", ContextPolicy.AUTO.value),
            summary=turn.text("summary", ""),
            raw_input=turn.text("typed", ""),
            passage_images=tuple(
                image for passage in self._passages[number] for image in passage.images
            ),
        )

    def _parse_reply(self, reply: JsonObject, version: int) -> Reply:
        made = reply.value.get("provenance")
        if made is not None:
            self._provenance[self._reply_count] = _parse_provenance(reply.nested("provenance"))
        settings = reply.value.get("settings")
        if not isinstance(settings, str):
            settings = json.dumps(reply.nested("settings").value)
        text = reply.text("text")
        unknown: list[str] = []
        reason = read_stop_reason(reply.optional_text("stop_reason"), unknown)
        plain = ReplyStep((Text(text),) if text else (), reason, _parse_usage(reply))
        steps = tuple(_parse_step(step, unknown) for step in reply.object_array("steps"))
        parsed = Reply(
            id=self._reply_count,
            version=version,
            error=reply_error(reply.optional_text("error"), unknown),
            model=reply.text("model"),
            adapter=reply.optional_text("adapter"),
            settings=settings,
            created=reply.time("created"),
            steps=steps or (plain,),
        )
        usage = parsed.usage
        if max(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) > MAX_INTEGER:
            raise reply.error("the usage of its steps is too large")
        return parsed


def _parse_blobs(fields: JsonObject) -> dict[str, bytes]:
    blobs = {}
    for sha256 in fields.value:
        try:
            content = base64.b64decode(fields.text(sha256), validate=True)
        except binascii.Error as error:
            raise fields.error(f"{sha256[:12]}… is not base64") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise fields.error(f"{sha256[:12]}… is not the hash of its content")
        blobs[sha256] = content
    return blobs


def _parse_step(step: JsonObject, unknown: list[str]) -> ReplyStep:
    reason = read_stop_reason(step.optional_text("stop_reason"), unknown)
    return ReplyStep(tuple(_parse_parts(step)), reason, _parse_usage(step))


def _parse_usage(fields: JsonObject) -> Usage:
    usage = fields.nested("usage")
    return Usage(
        prompt_tokens=usage.non_negative_int("prompt_tokens"),
        cached_tokens=usage.non_negative_int("cached_tokens"),
        completion_tokens=usage.non_negative_int("completion_tokens"),
        first_token_seconds=usage.number("first_token_seconds"),
        decode_seconds=usage.number("decode_seconds") or 0.0,
        reasoning_tokens=usage.non_negative_int("reasoning_tokens"),
    )


def _parse_parts(fields: JsonObject) -> list[Part]:
    return [parse_part(part) for part in fields.object_array("parts")]


def _parse_images(passage: JsonObject) -> tuple[Image, ...]:
    return tuple(map(_parse_image, passage.object_array("images")))


def _parse_image(part: JsonObject) -> Image:
    try:
        return Image(
            part.text("media_type"),
            part.non_negative_int("width"),
            part.non_negative_int("height"),
            part.text("sha256"),
            part.text("name", ""),
        )
    except ValueError as error:
        if isinstance(error, InvalidChat):
            raise
        raise part.error(str(error)) from error


def parse_part(part: JsonObject) -> Part:
    """Parse a message part as `to_dict` writes it.

    Raises:
        InvalidChat: its type is unknown, or a field is missing or invalid.
    """
    kind = part.text("type")
    match kind:
        case "text":
            return Text(part.text("text"))
        case "reasoning":
            tokens = part.value.get("tokens")
            return Reasoning(
                part.text("text"),
                part.number("seconds"),
                None if tokens is None else part.non_negative_int("tokens"),
            )
        case "tool_call":
            return ToolCall(part.text("id"), part.text("name"), part.text("arguments"))
        case "tool_result":
            return ToolResult(
                part.text("call_id"),
                part.text("name"),
                part.text("text"),
                part.boolean("is_error"),
                _parse_outcome(part),
                part.number("seconds"),
                part.boolean("untrusted"),
                part.text("source", ""),
            )
        case "file":
            return File(part.text("name"), part.text("text"), part.text("media_type"))
        case "image":
            return _parse_image(part)
        case _:
            raise part.error(f"type {kind[:40]!r} is unknown")


def _parse_outcome(part: JsonObject) -> ToolOutcome:
    text = part.text("outcome", "")
    for outcome in TOOL_OUTCOMES:
        if text == outcome:
            return outcome
    raise part.error(f"outcome {text[:40]!r} is unknown")


def _parse_tools(chat: JsonObject) -> ChatTools:
    """Parse what the user decided about tools in the chat; calls that are allowed without asking
    are left out, since the file may come from elsewhere."""
    if "tools" not in chat.value:
        return ChatTools()
    try:
        tools = ChatTools.from_dict(chat.nested("tools").value)
    except (TypeError, UsageError) as error:
        raise chat.error(f"tools: {error}") from error
    return dataclasses.replace(tools, enabled=None, allow=())


def _parse_annotation(label: JsonObject) -> Annotation:
    plugin, name, value = (label.text(field) for field in ("plugin", "name", "value"))
    return Annotation(plugin, name, value, label.number("score"), label.text("icon", ""))


def _parse_call(call: JsonObject) -> Call:
    changes = tuple(
        Change(change.text("what"), change.text("before"), change.text("after"))
        for change in call.object_array("changes")
    )
    seconds = call.number("seconds") or 0.0
    plugin, hook, summary, error = (
        call.text(field) for field in ("plugin", "hook", "said", "error")
    )
    return Call(plugin, hook, seconds, summary, changes, error)


def _parse_reply_id(fields: JsonObject, name: str, ids: dict[int, int]) -> int | None:
    """Return the reply that a field refers to; None for null or a missing field."""
    if fields.value.get(name) is None:
        return None
    number = fields.non_negative_int(name)
    if number not in ids:
        raise fields.error(f"{name} is none of the turn's replies")
    return ids[number]


def _parse_provenance(fields: JsonObject) -> Provenance:
    versions = fields.nested("versions")
    return Provenance(
        messages=tuple(map(_parse_message, fields.object_array("messages"))),
        sampling=_parse_sampling(fields.nested("sampling")),
        model=fields.text("model"),
        adapter=fields.optional_text("adapter"),
        prompt_format=fields.text("prompt_format", ""),
        device=fields.text("device", ""),
        weights=fields.text("dtype", ""),
        context_length=fields.non_negative_int("context_length"),
        prompt_hash=fields.text("prompt_hash", ""),
        versions={name: versions.text(name) for name in versions.value},
        plugin_processors=fields.text_array("added"),
    )


def _parse_message(message: JsonObject) -> Message:
    roles: tuple[Role, ...] = get_args(Role)
    name = message.text("role")
    role = next((role for role in roles if role == name), None)
    if role is None:
        raise message.error(f"role must be one of {', '.join(roles)}")
    parts = _parse_parts(message) or message.text("content")
    return Message(role, parts, message.boolean("pinned"))


def _parse_project(chat: JsonObject) -> Project | None:
    if "project" not in chat.value:
        return None
    project = chat.nested("project")
    return Project(project.text("folder"), project.text("instructions", ""))


def _parse_tags(chat: JsonObject) -> tuple[str, ...]:
    tags = chat.text_array("tags")
    if any(len(tag.split()) != 1 for tag in tags):
        raise chat.error("a tag must be one word")
    return tuple(sorted({tag.strip() for tag in tags}))


def _parse_plugin_data(chat: JsonObject) -> PluginData:
    plugins = _parse_json_values(chat, "kept")
    return {plugin: chat.nested("kept").nested(plugin).value for plugin in plugins}


def _parse_json_values(fields: JsonObject, name: str) -> dict[str, Any]:
    """Return a nested object that can be stored as JSON."""
    inner = fields.nested(name)
    try:
        json.dumps(inner.value, allow_nan=False)
    except ValueError:
        raise inner.error("a number in it is not finite") from None
    return inner.value


def _parse_sampling(values: JsonObject) -> Sampling:
    try:
        return Sampling.from_dict(values.value)
    except UsageError as error:
        raise values.error(error.message) from error


def _parse_enum(
    enum_type: type[EnumT], fields: JsonObject, name: str, default: str | None = None
) -> EnumT:
    try:
        return enum_type(fields.text(name, default))
    except ValueError:
        raise fields.error(f"{name} must be one of {', '.join(enum_type)}") from None
