"""Format replies, parts, labels and numbers as plain text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from chatlm.text import escape_controls, one_line
from chatlm.types.conversations import ContextPolicy, Turn
from chatlm.types.messages import Annotation
from chatlm.types.parts import File, Image, Part, Reasoning, ToolCall, ToolResult
from chatlm.types.replies import PLUGIN_MODEL_PREFIX, Reply, StopReason, StreamedPart, Usage

MAX_ARGUMENTS = 400
"""Characters shown of a tool call's arguments."""


MAX_RESULT_LINES, MAX_LINE = 8, 300
"""Lines shown of a tool's result, and characters of each."""


def stop_label(reason: StopReason | None) -> str:
    """Return why a reply ended; None is a reply that was interrupted."""
    return "cut off when chatlm closed" if reason is None else reason.label


def count(number: int, noun: str) -> str:
    """`1 token`, `1,204 tokens`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def speed(usage: Usage) -> str:
    """Return the decode speed, such as `31.2 tokens/s`; empty if unknown."""
    rate = usage.tokens_per_second
    if rate is None:
        return ""
    return f"{rate:,.0f} tokens/s" if rate >= 100 else f"{rate:.1f} tokens/s"


def writing_status(usage: Usage, part: StreamedPart = "text") -> str:
    """Return the status of a reply that is being written, or of a thought before it."""
    word = "thinking" if part == "reasoning" else "writing"
    return join_parts(word, count(usage.completion_tokens, "token"), speed(usage))


def thought_title(thought: Reasoning, *, is_streaming: bool = False) -> str:
    """Return `Thought for 8 s · 412 tokens`, or `Thinking … 8 s · 412 tokens` while it grows."""
    return f"Thinking … {thought.cost}".rstrip() if is_streaming else thought.caption


def context_status(turn: Turn, *, omitted: bool) -> str:
    """Return how the context policy changes what the model reads; empty by default.

    Args:
        turn: the turn as stored.
        omitted: whether it no longer fits the context.
    """
    if turn.context_policy is ContextPolicy.DROPPED:
        return "dropped from the context"
    if omitted:
        return "outside the context, which is full"
    if turn.context_policy is ContextPolicy.PINNED:
        return "pinned: always in the context"
    if turn.context_policy is ContextPolicy.SUMMARISED and turn.summary:
        return "replaced by its summary"
    return ""


def stop_text(reply: Reply | None) -> str:
    """Return why a reply ended; empty if it is complete."""
    if reply is None:
        return "not answered"
    return "" if reply.stop_reason is StopReason.END else stop_label(reply.stop_reason)


def version_text(turn: Turn) -> str:
    """Return which version of the reply is active; empty if there is only one."""
    if turn.reply is None or len(turn.replies) < 2:
        return ""
    return f"version {turn.reply.version} of {len(turn.replies)}"


def annotation_badges(annotations: Iterable[Annotation]) -> str:
    """Return the annotations of a message, one per line, such as `mood calm (0.93)`."""
    return "\n".join(map(_badge, annotations))


def model_label(name: str) -> str:
    """Return a model's name without its owner or folder; of a plugin that answered itself, so."""
    if name.startswith(PLUGIN_MODEL_PREFIX):
        return f"{one_line(name.removeprefix(PLUGIN_MODEL_PREFIX), 40)} (plugin)"
    return one_line(short_name(name), 60)


_ON_SERVER = re.compile(r"\w+:(.+)@https?://([^/?#]+).*")
"""A model at an address: its name there, and the host."""


def short_name(model: str) -> str:
    """Return a model's name without its owner or folder; on a server, with the host behind it."""
    if found := _ON_SERVER.fullmatch(model):
        name, host = found.groups()
        return f"{name.rpartition('/')[2]}@{host.rpartition('@')[2]}"
    return model.rstrip("/").rpartition("/")[2]


def reply_author(reply: Reply) -> tuple[str, str]:
    """Return the model of a reply, without its owner or folder, and `adapter NAME` or nothing."""
    return model_label(
        reply.model
    ) or "reply", f"adapter {one_line(reply.adapter, 40)}" if reply.adapter else ""


def reply_cost(reply: Reply | None) -> str:
    """Return the tokens and speed of a reply, if known."""
    if reply is None or not reply.usage.completion_tokens:
        return ""
    return join_parts(count(reply.usage.completion_tokens, "token"), speed(reply.usage))


def _badge(annotation: Annotation) -> str:
    score = "" if annotation.score is None else f" ({annotation.score:.2f})"
    icon = f"{one_line(annotation.icon, 8)} " if annotation.icon else ""
    return f"{icon}{one_line(annotation.name, 40)} {one_line(annotation.value, 100)}{score}"


class PartText(NamedTuple):
    """A part as text that is safe on a terminal."""

    label: str
    """What kind of part it is."""
    title: str
    """Its name and facts on one line."""
    body: str = ""
    """Its content, shortened."""
    is_error: bool = False


def describe_part(part: Part) -> PartText:
    """Describe a part for the screen; long contents are shortened."""
    match part:
        case ToolCall(name=name, arguments=arguments):
            return PartText("Tool call", one_line(name, 60), one_line(arguments, MAX_ARGUMENTS))
        case ToolResult(name=name, text=text, is_error=failed):
            label = "Tool error" if failed else "Tool result"
            return PartText(label, one_line(name, 60), shorten(text), failed)
        case Image():
            size = f"{part.width:,}×{part.height:,}"
            facts = (one_line(part.name, 60), one_line(part.media_type, 40), size)
            return PartText("Image", join_parts(*facts))
        case File(name=name, text=text, media_type=media_type):
            size = count(len(text), "character")
            return PartText("File", join_parts(one_line(name, 60), one_line(media_type, 40), size))
    return PartText(part.type.capitalize(), "", escape_controls(part.text))


def shorten(text: str) -> str:
    """Return the first lines of a text, each cut if it is long, and how many more there are."""
    lines = text.rstrip("\n").split("\n")
    safe = map(escape_controls, lines[:MAX_RESULT_LINES])
    shown = [line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…" for line in safe]
    if more := len(lines) - len(shown):
        shown.append(f"… {count(more, 'more line')}")
    return "\n".join(shown)


def join_parts(*parts: str) -> str:
    """Join the non-empty parts with dots."""
    return " · ".join(part for part in parts if part)
