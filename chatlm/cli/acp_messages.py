"""Values of the Agent Client Protocol made from chatlm's, and the other way round."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from chatlm.chat.attached import Attached, read_attached
from chatlm.chat.attachments import FileReader, format_block
from chatlm.chat.images import read_image
from chatlm.errors import UsageError
from chatlm.text import escape_controls, one_line
from chatlm.types.conversations import Conversation
from chatlm.types.parts import PreparedImage, Reasoning, Text, ToolCall, ToolResult
from chatlm.types.replies import StopReason

if TYPE_CHECKING:
    from acp.schema import PermissionOption, ToolCallUpdate

    from chatlm.types.events import ApprovalNeeded

Ending = Literal["end_turn", "max_tokens", "max_turn_requests", "refusal", "cancelled"]

_ENDINGS: dict[StopReason, Ending] = {
    StopReason.LENGTH: "max_tokens",
    StopReason.CONTEXT_FULL: "max_tokens",
    StopReason.TOOL_LIMIT: "max_turn_requests",
    StopReason.REFUSAL: "refusal",
    StopReason.CONTENT_FILTER: "refusal",
    StopReason.CANCELLED: "cancelled",
}

ALLOW_ONCE, ALLOW_IN_CHAT, REJECT = "allow", "allow-in-chat", "reject"
"""Ids of the answers to a call."""

MAX_SHOWN = 4000
"""Characters of arguments or a result that an editor gets to show."""


EDITOR_PREFIX = "editor-"
"""Begins the names of an editor's servers, so that rules for servers of the user's own settings
are never about them."""


def ending(reason: StopReason | None) -> Ending:
    """Return how the editor is told that a reply ended."""
    return "cancelled" if reason is None else _ENDINGS.get(reason, "end_turn")


def read_prompt(
    blocks: Sequence[Any], read_file: FileReader
) -> tuple[str, tuple[PreparedImage, ...]]:
    """Return the message of the editor's user, and its images.

    Args:
        blocks: text, links to files, which are read, pieces of files, and images.
        read_file: reads a file.

    Raises:
        UsageError: a file or an image cannot be read, there are too many images, or a sound.
    """
    written: list[str] = []
    attached: list[str] = []
    images = Attached()
    for block in blocks:
        if block.type == "text":
            written.append(block.text)
        elif block.type == "resource_link":
            written.append(one_line(block.name, 200))
            if (path := _local_path(block.uri)) is not None:
                found = read_attached(path, str(path), "", read_file)
                attached += found.blocks
                images += Attached(images=found.images)
            else:
                attached.append(one_line(block.uri, 1000))
        elif block.type == "resource":
            text = getattr(block.resource, "text", None)
            if text is None:
                raise UsageError(f"{one_line(block.resource.uri, 200)} is not text.")
            path = _local_path(block.resource.uri)
            attached.append(format_block(str(path or block.resource.uri), text))
        elif block.type == "image":
            name = Path(unquote(urlsplit(block.uri or "").path)).name
            images += Attached(images=(read_image(_decode(block.data), name),))
        else:
            raise UsageError(f"chatlm takes no {one_line(block.type, 20)} from editors.")
    text = "\n\n".join(filter(None, ("".join(written), *dict.fromkeys(attached))))
    return text, images.images


def _decode(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        raise UsageError("An image is not in base64.") from None


def _local_path(uri: str) -> Path | None:
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def server_entries(servers: Sequence[Any], folder: str) -> dict[str, dict[str, Any]]:
    """Return an editor's MCP servers as entries of `mcpServers`, by a name that is safe.

    Args:
        servers: as the editor describes them.
        folder: where servers that run here are started.
    """
    entries: dict[str, dict[str, Any]] = {}
    for server in servers:
        plain = re.sub("[^A-Za-z0-9_.-]+", "-", server.name).strip("-.")[:40] or "server"
        name = f"{EDITOR_PREFIX}{plain}"
        while name in entries:
            name += "-2"
        if command := getattr(server, "command", ""):
            variables = {each.name: each.value for each in server.env}
            entries[name] = {"command": command, "args": list(server.args), "env": variables}
            entries[name]["cwd"] = folder
        else:  # which kinds of addresses can be used, the plugin knows
            headers = {each.name: each.value for each in getattr(server, "headers", ())}
            address = getattr(server, "url", "")
            entries[name] = {"type": server.type, "url": address, "headers": headers}
    return entries


def call_arguments(call: ToolCall) -> Any:
    """Return the arguments of a call as JSON values, or as the text that the model wrote."""
    try:
        return json.loads(call.arguments)
    except (ValueError, RecursionError):
        return call.arguments


def call_title(event: ApprovalNeeded) -> str:
    """Return a line that says what a call would do."""
    shown = event.preview.text if event.preview else ""
    return one_line(f"{event.call.name}: {shown}" if shown else event.call.name, 120)


def call_kind(event: ApprovalNeeded) -> Literal["execute", "edit", "other"]:
    """Return what kind of tool it is, by which editors choose a sign."""
    shown = event.preview.kind if event.preview else ""
    return "execute" if shown in ("command", "code") else "edit" if shown == "diff" else "other"


def call_to_approve(event: ApprovalNeeded) -> ToolCallUpdate:
    """Return what the editor shows when it asks: the arguments, and why they are suspicious."""
    from acp import text_block, tool_content
    from acp.schema import ToolCallUpdate

    lines = []
    if event.preview is not None:
        lines.append(event.preview.text)
    lines += [
        f"{one_line(copied.text, 200)!r} was copied from {one_line(copied.source, 100)}."
        for copied in event.copied
    ]
    if event.interrupted:
        lines.append("It ran before, and the program ended meanwhile: what it did is not known.")
    text = escape_controls("\n".join(lines))[:MAX_SHOWN]
    return ToolCallUpdate(
        tool_call_id=event.call.id,
        title=call_title(event),
        kind=call_kind(event),
        status="pending",
        raw_input=dict(event.arguments),
        content=[tool_content(text_block(text))] if text else None,
    )


def history(chat: Conversation) -> Iterator[Any]:
    """Yield the updates that show an editor all messages and shown replies of a chat."""
    from acp import (
        start_tool_call,
        text_block,
        tool_content,
        update_agent_message_text,
        update_agent_thought_text,
        update_tool_call,
        update_user_message_text,
    )

    for turn in chat.turns:
        yield update_user_message_text(turn.display_text)
        for part in turn.reply.parts if turn.reply is not None else ():
            match part:
                case Text(text=text) if text:
                    yield update_agent_message_text(text)
                case Reasoning(text=text) if text:
                    yield update_agent_thought_text(text)
                case ToolCall():
                    yield start_tool_call(
                        part.id,
                        part.name,
                        kind="other",
                        status="pending",
                        raw_input=call_arguments(part),
                    )
                case ToolResult():
                    yield update_tool_call(
                        part.call_id,
                        status="failed" if part.is_error else "completed",
                        content=[tool_content(text_block(result_text(part)))],
                    )


def approval_options(event: ApprovalNeeded) -> list[PermissionOption]:
    """Return the answers that the user can give."""
    from acp.schema import PermissionOption

    options = [PermissionOption(option_id=ALLOW_ONCE, name="Allow", kind="allow_once")]
    if not (event.copied or event.interrupted or event.always):
        options.append(
            PermissionOption(
                option_id=ALLOW_IN_CHAT, name="Allow in this chat", kind="allow_always"
            )
        )
    return [*options, PermissionOption(option_id=REJECT, name="Reject", kind="reject_once")]


def result_text(result: ToolResult) -> str:
    """Return a result as the editor shows it."""
    text = escape_controls(result.text)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
