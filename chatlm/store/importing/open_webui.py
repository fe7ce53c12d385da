"""Parser for Open WebUI's export, in which each chat is a tree of messages."""

from __future__ import annotations

import html
import re
from datetime import datetime
from typing import Any

from chatlm.store.importing.chatgpt import parse_chatgpt
from chatlm.store.importing.fields import JsonObject, ParsedChat
from chatlm.store.importing.json_stream import FindFile
from chatlm.store.importing.message_tree import TreeBuilder

_REASONING = re.compile(
    r"<details type=\"reasoning\"[^>]*>\s*(?:<summary>.*?</summary>)?(.*?)</details>\s*", re.DOTALL
)
"""How Open WebUI writes thoughts into a reply."""

_QUOTED = re.compile(r"^> ?", re.MULTILINE)


def parse_open_webui(
    value: Any, default_time: datetime, find_file: FindFile = lambda _: None
) -> ParsedChat:
    """Parse a chat; other answers become versions, other branches forks, as with ChatGPT's.

    Left out and counted: attached files, sources and statuses.

    Args:
        value: an entry of the export, whose `chat` has a `history`.
        default_time: the chat's time where the file has none.
        find_file: unused; the export has no files.

    Raises:
        InvalidChat: its structure is not Open WebUI's, or there is no user message.
    """
    entry = JsonObject(value)
    chat = entry.nested("chat")
    history = chat.nested("history")
    messages = {
        name: JsonObject(message, f"message {name[:40]}")
        for name, message in history.nested("messages").value.items()
    }
    tree = TreeBuilder(
        title=entry.optional_text("title") or chat.optional_text("title") or "",
        created=entry.number("created_at"),
        updated=entry.number("updated_at"),
    )
    system = chat.optional_text("system")
    files = 0
    for name, message in messages.items():
        parent = message.optional_text("parentId")
        content = message.text("content", "")
        files += len(message.value.get("files") or ())
        tree.add(
            name,
            parent if parent in messages else None,
            message.text("role"),
            _REASONING.sub("", content),
            thoughts=_thoughts(content),
            model=message.optional_text("model") or "",
            created=message.number("timestamp"),
        )
    found = parse_chatgpt(tree.chat(history.optional_text("currentId")), default_time, find_file)
    return tree.finish(found, system or "", {"images and files": files})


def _thoughts(content: str) -> str:
    texts = (html.unescape(_QUOTED.sub("", found)).strip() for found in _REASONING.findall(content))
    return "\n\n".join(filter(None, texts))
