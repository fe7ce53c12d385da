"""Exports of chats as Markdown, JSON lines, OpenAI messages and ChatML."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

from chatlm.errors import StoreError, UsageError
from chatlm.hub.disk import human_bytes
from chatlm.store.importing.json_stream import MAX_CHAT_BYTES
from chatlm.store.rows import (
    AnnotationLookup,
    BlobLookup,
    PassageLookup,
    ProvenanceLookup,
    TraceLookup,
    short_title,
)
from chatlm.store.store import Store
from chatlm.text import dump_json, escape_controls
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.messages import Annotation, Message, Passage
from chatlm.types.parts import (
    File,
    Image,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    reasoning_of,
)
from chatlm.types.provenance import Provenance, Trace
from chatlm.types.replies import Reply

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
"""ChatML's control tokens, as text."""


def display_title(conversation: Conversation) -> str:
    """Return a chat's title, else the beginning of its first message; may be empty."""
    first = conversation.turns[0].display_text if conversation.turns else None
    return short_title(conversation.title, first)


class MarkdownBlock(NamedTuple):
    """A piece of a chat as Markdown."""

    text: str
    is_reasoning: bool = False


def to_markdown(conversation: Conversation, missing_images: Collection[str] = ()) -> str:
    """Format a chat for reading: active replies only, each with model and stop reason.

    Args:
        conversation: the chat.
        missing_images: hashes of the images whose bytes are missing, which the text mentions.
    """
    blocks = markdown_blocks(conversation, missing_images)
    return "\n\n".join(block.text for block in blocks) + "\n"


def markdown_blocks(
    conversation: Conversation, missing_images: Collection[str] = ()
) -> Iterator[MarkdownBlock]:
    """Yield the blocks of `to_markdown`, which empty lines separate."""
    title = " ".join(display_title(conversation).split()) or f"Chat {conversation.id}"
    yield MarkdownBlock(f"# {title}")
    if system := conversation.system_prompt:
        quoted = (f"> {line}".rstrip() for line in system.split("\n"))
        yield MarkdownBlock("\n".join(quoted))
    for turn in conversation.turns:
        yield MarkdownBlock("## You")
        if message := _close_fences(turn.display_text):
            yield MarkdownBlock(message)
        others = (part for part in turn.user.parts if not isinstance(part, Text))
        yield from _blocks_of(others, missing_images)
        if turn.reply is not None:
            yield MarkdownBlock("## Assistant")
            yield from _blocks_of(turn.reply.parts, missing_images)
            yield MarkdownBlock(f"*{_reply_caption(turn.reply)}*")


def _blocks_of(parts: Iterable[Part], missing_images: Collection[str]) -> Iterator[MarkdownBlock]:
    for part in parts:
        for text in filter(None, _markdown_of(part, missing_images)):
            yield MarkdownBlock(text, isinstance(part, Reasoning))


def to_jsonl(
    conversations: Iterable[Conversation],
    passages: PassageLookup = lambda _: (),
    annotations: AnnotationLookup = lambda _: (),
    provenance: ProvenanceLookup = lambda _: None,
    traces: TraceLookup = lambda _: (),
    blobs: BlobLookup = lambda _: None,
) -> Iterator[str]:
    """Export chats with everything that is stored with them, one JSON object a line.

    The bytes of images are in `blobs` by hash, as base64.
    """
    for conversation in conversations:
        values = conversation_to_dict(conversation, passages, annotations, provenance, traces)
        images = {sha256: blobs(sha256) for sha256 in _image_hashes(conversation)}
        found = {sha256: _base64(content) for sha256, content in images.items() if content}
        line = _json_line(values | ({"blobs": found} if found else {}))
        if found and len(line) > MAX_CHAT_BYTES:
            raise UsageError(
                f"Chat {conversation.id} takes {human_bytes(len(line))} with its images, more than "
                f"the {human_bytes(MAX_CHAT_BYTES)} that can be imported again.",
                hint="Export the others without it, and this one as messages.",
            )
        yield line


def _image_hashes(conversation: Conversation) -> list[str]:
    return sorted({image.sha256 for image in conversation.images()})


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def to_messages(
    conversations: Iterable[Conversation], blobs: BlobLookup = lambda _: None
) -> Iterator[str]:
    """Export chats as the model reads them, in the format of trainers, one JSON object a line:
    `{"messages": [{"role": …, "content": …}, …]}`.

    Reasoning, tool calls and their results are in the fields that OpenAI-compatible servers use,
    images in data URLs.
    """
    for conversation in conversations:
        messages = [
            openai for message in conversation.messages() for openai in to_openai(message, blobs)
        ]
        yield _json_line({"messages": messages})


def to_chatml(conversations: Iterable[Conversation]) -> Iterator[str]:
    """Export chats as the model reads them, as ChatML text, separated by empty lines.

    Raises:
        UsageError: a message contains `<|im_start|>` or `<|im_end|>`, which ChatML cannot quote,
            so that the text would forge a turn; or it has tool calls, images or files.
    """
    for number, conversation in enumerate(conversations):
        for place, message in enumerate(conversation.messages(), start=1):
            for part in message.parts:
                if part.type not in ("text", "reasoning"):
                    raise UsageError(
                        f"Message {place} ({message.role}) of chat {conversation.id} has a part of "
                        f"type {part.type}, which ChatML text cannot represent.",
                        hint="Export it as messages or jsonl.",
                    )
            for token in (IM_START, IM_END):
                if token in message.text:
                    raise UsageError(
                        f"Message {place} ({message.role}) of chat {conversation.id} contains "
                        f"{token}, which ChatML cannot quote.",
                        hint="Export it as messages or jsonl.",
                    )
        pieces = [f"{IM_START}{m.role}\n{m.text}{IM_END}\n" for m in conversation.messages()]
        yield "\n" * (number > 0) + "".join(pieces)


def conversation_to_dict(
    conversation: Conversation,
    passages: PassageLookup = lambda _: (),
    annotations: AnnotationLookup = lambda _: (),
    provenance: ProvenanceLookup = lambda _: None,
    traces: TraceLookup = lambda _: (),
) -> dict[str, Any]:
    """Convert a chat to JSON values; times in ISO 8601, UTC."""
    return {
        "id": conversation.id,
        "title": conversation.title,
        "system": conversation.system,
        "created": conversation.created.isoformat(),
        "updated": conversation.updated.isoformat(),
        "sampling": conversation.sampling.to_dict(),
        "pinned": conversation.pinned,
        "forked_from": conversation.forked_from,
        "kept": {name: dict(values) for name, values in conversation.plugin_data.items()},
        "without": sorted(conversation.disabled_plugins),
        **({"project": conversation.project.to_dict()} if conversation.project else {}),
        **({"tags": list(conversation.tags)} if conversation.tags else {}),
        **({"tools": tools} if (tools := conversation.tools.to_dict()) else {}),
        "turns": [
            _turn_to_dict(turn, passages(turn.id), annotations(turn.id), traces(turn.id))
            | {"replies": [_reply_to_dict(reply, provenance(reply.id)) for reply in turn.replies]}
            for turn in conversation.turns
        ],
    }


def _turn_to_dict(
    turn: Turn,
    passages: Sequence[Passage],
    annotations: Sequence[tuple[int | None, Annotation]],
    traces: Sequence[Trace],
) -> dict[str, Any]:
    return {
        "id": turn.id,
        "content": turn.user.text,
        **({} if turn.user.is_plain else {"parts": [part.to_dict() for part in turn.user.parts]}),
        "created": turn.created.isoformat(),
        "standing": turn.context_policy.value,
        "summary": turn.summary,
        "typed": turn.raw_input,
        "chosen": turn.reply.id if turn.reply else None,
        "passages": [passage.to_dict() for passage in passages],
        "annotations": [{"reply": reply_id, **label.to_dict()} for reply_id, label in annotations],
        "traces": [trace.to_dict() for trace in traces],
    }


def _reply_to_dict(reply: Reply, provenance: Provenance | None) -> dict[str, Any]:
    return reply.to_dict() | {
        "settings": _parse_settings(reply.settings),
        "provenance": provenance and provenance.to_dict(),
    }


def _parse_settings(text: str) -> dict[str, Any] | str:
    """Parse the settings; invalid JSON is returned as it is."""
    try:
        values = json.loads(text)
    except ValueError:
        return text
    return values if isinstance(values, dict) else text


def to_openai(message: Message, blobs: BlobLookup = lambda _: None) -> list[dict[str, Any]]:
    """Convert a message to OpenAI's chat format; each tool result is a message of its own."""
    results = [part for part in message.parts if isinstance(part, ToolResult)]
    if message.role == "tool":
        return [
            {"role": "tool", "tool_call_id": result.call_id, "content": result.text}
            for result in results
        ]
    content: str | list[dict[str, Any]] = message.text
    if any(isinstance(part, Image | File) for part in message.parts):
        content = [item for part in message.parts for item in _content_parts(part, blobs)]
    values: dict[str, Any] = {"role": message.role, "content": content}
    if reasoning := reasoning_of(message.parts):
        values["reasoning_content"] = reasoning
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    if calls:
        values["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    return [values]


def _content_parts(part: Part, blobs: BlobLookup) -> Iterator[dict[str, Any]]:
    match part:
        case Text(text):
            yield {"type": "text", "text": text}
        case Image():
            content = blobs(part.sha256)
            url = f"sha256:{part.sha256}"  # only names the bytes, where they are missing
            if content is not None:
                url = f"data:{part.media_type};base64,{_base64(content)}"
            yield {"type": "image_url", "image_url": {"url": url}, "image": part.to_dict()}
        case File():
            data = _base64(part.text.encode())
            yield {
                "type": "file",
                "file": {
                    "filename": part.name,
                    "file_data": f"data:{part.media_type};base64,{data}",
                },
            }


def _json_line(value: Any) -> str:
    """Dump JSON on one line, escaped for a terminal as by `dump_json`."""
    return " ".join(part.lstrip(" ") for part in dump_json(value).split("\n")) + "\n"


def _reply_caption(reply: Reply) -> str:
    reason = "cut off" if reply.stop_reason is None else reply.stop_reason.value.replace("_", " ")
    facts = [reply.model, reply.adapter or "", f"stopped: {reason}"]
    if reply.error:
        facts.append(" ".join(reply.error.split()))
    return " · ".join(re.sub(r"([\\`*_\[\]<>])", r"\\\1", fact) for fact in facts if fact)


def _markdown_of(part: Part, missing_images: Collection[str]) -> Iterator[str]:
    match part:
        case Text(text):
            yield _close_fences(text)
        case Reasoning(text):
            lines = [f"*{part.caption}*", "", *text.split("\n")]
            yield "\n".join(f"> {line}".rstrip() for line in lines)
        case ToolCall(name=name, arguments=arguments):
            yield f"Tool call: {name}"
            yield _code_block(arguments)
        case ToolResult(name=name, text=text, is_error=failed):
            how = part.outcome or ("error" if failed else "result")
            yield " · ".join(filter(None, (f"Tool {how}: {name}", part.cost, part.source)))
            yield _code_block(text)
        case Image():
            facts = f"{part.name or part.media_type}, {part.width}×{part.height}"
            yield f"[Image: {facts}{', missing' * (part.sha256 in missing_images)}]"
        case File(name=name, text=text):
            yield f"[File: {name}]"
            yield _code_block(text)


def _code_block(text: str) -> str:
    """Fence a text with more backticks than any run of them in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _close_fences(text: str) -> str:
    """Close a code block that a cut-off reply left open."""
    opened = ""
    for line in text.split("\n"):
        fence = re.match(r" {0,3}(`{3,}|~{3,})(.*)", line)
        if fence is None:
            continue
        marks, rest = fence.groups()
        if not opened and not (marks[0] == "`" and "`" in rest):
            opened = marks
        elif opened and marks.startswith(opened) and not rest.strip():
            opened = ""
    return f"{text}\n{opened}" if opened else text


ExportFormat = Literal["markdown", "jsonl", "messages", "chatml"]


EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)


FORMAT_BY_SUFFIX: dict[str, ExportFormat] = {
    ".md": "markdown",
    ".jsonl": "jsonl",
    ".messages.jsonl": "messages",
    ".chatml": "chatml",
}
"""File suffix -> format."""


def stream_export(
    store: Store,
    ids: Iterable[int],
    export_format: ExportFormat,
    on_missing_image: Callable[[StoreError], None] = lambda _: None,
    on_unreadable: Callable[[int, StoreError], None] | None = None,
) -> Iterator[str]:
    """Export chats as pieces of text.

    Args:
        store: the chats.
        ids: those to export, in order.
        export_format: how they are written.
        on_missing_image: gets the error for each image that is missing or damaged; the chat is
            exported without its bytes.
        on_unreadable: gets the id of each chat that cannot be read, and why; None stops there.

    Raises:
        StoreError: one of them cannot be read, and `on_unreadable` is None.
        UsageError: the format cannot represent one of them.
    """

    def find_blob(sha256: str) -> bytes | None:
        try:
            return store.blob(sha256)
        except StoreError as error:
            on_missing_image(error)
            return None

    def load() -> Iterator[Conversation]:
        for chat_id in ids:
            try:
                chat = store.conversation(chat_id)
            except StoreError as error:
                if on_unreadable is None:
                    raise
                on_unreadable(chat_id, error)
            else:
                yield chat

    conversations = load()
    if export_format == "jsonl":
        yield from to_jsonl(
            conversations,
            store.passages,
            store.annotations,
            store.provenance,
            store.traces,
            find_blob,
        )
    elif export_format == "messages":
        yield from to_messages(conversations, find_blob)
    elif export_format == "chatml":
        yield from to_chatml(conversations)
    else:
        for number, conversation in enumerate(conversations):
            text = to_markdown(conversation, missing_images(store, conversation))
            yield ("\n---\n\n" if number else "") + escape_controls(text)


def missing_images(store: Store, conversation: Conversation) -> set[str]:
    """Return the hashes of a chat's images whose bytes are not in the store."""
    return {sha256 for sha256 in _image_hashes(conversation) if not store.has_blob(sha256)}
