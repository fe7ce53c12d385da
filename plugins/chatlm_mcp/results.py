"""Turn what servers return into text for a model."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from chatlm import one_line
from chatlm_mcp.limits import MAX_RESULT_CHARACTERS

if TYPE_CHECKING:
    from mcp_types import CallToolResult, ReadResourceResult

MAX_BLOCKS = 200
"""Pieces of one result."""

MAX_IMAGES = 8
"""Pictures of one result."""


def result_text(result: CallToolResult) -> str:
    """Return a tool's result as text, in which pictures and sounds are named."""
    text = _join(block_text(block) for block in result.content[:MAX_BLOCKS])
    if not text and result.structured_content is not None:
        text = _cut(json.dumps(result.structured_content, ensure_ascii=False))
    return text or "(no content)"


def result_images(result: CallToolResult) -> tuple[bytes, ...]:
    """Return the pictures of a tool's result; what is not base64 is left out."""
    images: list[bytes] = []
    for block in result.content[:MAX_BLOCKS]:
        if block.type == "image" and len(images) < MAX_IMAGES:
            with suppress(ValueError):
                images.append(base64.b64decode(block.data, validate=True))
    return tuple(images)


def resource_text(result: ReadResourceResult) -> str:
    """Return a resource as text; empty if it has none."""
    texts = (getattr(content, "text", "") for content in result.contents[:MAX_BLOCKS])
    return _join(plain_text(text) for text in texts)


def block_text(block: Any) -> str:
    """Return one piece of content as text."""
    kind = getattr(block, "type", "")
    if kind == "text":
        return plain_text(block.text)
    if kind in ("image", "audio"):
        size = len(block.data) * 3 // 4
        return f"({kind} of the type {one_line(block.mime_type, 40)}, {size:,} bytes)"
    if kind == "resource_link":
        return f"(resource {one_line(block.name, 100)}: {one_line(str(block.uri), 300)})"
    if kind == "resource":
        content = block.resource
        if (text := getattr(content, "text", None)) is not None:
            return plain_text(text)
        return f"(resource {one_line(str(content.uri), 300)}, not text)"
    return f"({one_line(kind, 30)}, not shown)"


def plain_text(text: str) -> str:
    """Return text with plain line ends and without NUL and escape characters.

    Other control characters stay as they are: the screen makes them visible.
    """
    return text.replace("\r\n", "\n").replace("\0", "\ufffd").replace("\x1b", "\u241b")


def _join(texts: Iterable[str]) -> str:
    pieces: list[str] = []
    size = 0
    for text in texts:
        if text:
            pieces.append(text)
            size += len(text)
        if size > MAX_RESULT_CHARACTERS:
            break
    return _cut("\n".join(pieces))


def _cut(text: str) -> str:
    if len(text) <= MAX_RESULT_CHARACTERS:
        return text
    left = len(text) - MAX_RESULT_CHARACTERS
    return f"{text[:MAX_RESULT_CHARACTERS]}\n(cut: at least {left:,} more characters)"
