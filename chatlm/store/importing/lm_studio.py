"""Parser for LM Studio's conversations: files `*.conversation.json` with versions of messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from chatlm.store.importing.chatgpt import parse_chatgpt
from chatlm.store.importing.fields import JsonObject, ParsedChat
from chatlm.store.importing.json_stream import FindFile
from chatlm.store.importing.message_tree import TreeBuilder


def parse_lm_studio(
    value: Any, default_time: datetime, find_file: FindFile = lambda _: None
) -> ParsedChat:
    """Parse a chat; versions of replies stay versions, and thoughts become reasoning.

    Left out and counted: files, and calls of tools.

    Args:
        value: the object.
        default_time: the chat's time where the file has none.
        find_file: unused; the files are not in it.

    Raises:
        InvalidChat: its structure is not LM Studio's, or there is no user message.
    """
    chat = JsonObject(value)
    milliseconds = chat.number("createdAt")
    created = None if milliseconds is None else milliseconds / 1000
    tree = TreeBuilder(chat.optional_text("name") or "", created, created)
    left_out: dict[str, int] = {}
    parent: str | None = None
    for number, message in enumerate(chat.object_array("messages")):
        versions = message.object_array("versions")
        chosen = message.non_negative_int("currentlySelected")
        for at, version in enumerate(versions):
            text, thoughts = _read_version(version, left_out)
            sender = version.value.get("senderInfo")
            model = sender.get("senderName") if isinstance(sender, dict) else None
            tree.add(
                f"{number}.{at}",
                parent,
                version.text("role"),
                text,
                thoughts=thoughts,
                model=model if isinstance(model, str) else "",
                created=created,
            )
        if versions:
            parent = f"{number}.{min(chosen, len(versions) - 1)}"
    found = parse_chatgpt(tree.chat(parent), default_time, find_file)
    return tree.finish(found, chat.optional_text("systemPrompt") or "", left_out)


def _read_version(version: JsonObject, left_out: dict[str, int]) -> tuple[str, str]:
    """Return what a version says and what the model thought; count what is neither."""
    texts: list[str] = []
    thoughts: list[str] = []
    steps = [version]
    if version.text("type", "singleStep") == "multiStep":
        steps = [
            step
            for step in version.object_array("steps")
            if step.text("type", "contentBlock") == "contentBlock"
        ]
    for step in steps:
        style = step.value.get("style")
        is_thought = isinstance(style, dict) and style.get("type") == "thinking"
        for part in step.object_array("content"):
            kind = part.text("type", "text")
            if kind == "text":
                (thoughts if is_thought else texts).append(part.text("text", ""))
            else:
                what = "images and files" if kind == "file" else "calls of tools"
                left_out[what] = left_out.get(what, 0) + 1
    return "".join(texts), "".join(thoughts)
