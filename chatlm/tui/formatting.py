"""Format replies, labels and numbers as plain text."""

from __future__ import annotations

from collections.abc import Iterable

from chatlm.text import one_line
from chatlm.types.messages import Annotation, ContextPolicy, Reply, StopReason, Turn, Usage

STOP_LABELS: dict[StopReason | None, str] = {
    StopReason.END: "complete",
    StopReason.STOP_STRING: "ended at a stop string",
    StopReason.LENGTH: "reached the length limit",
    StopReason.CONTEXT_FULL: "context full",
    StopReason.CRITERION: "ended by a stopping rule",
    StopReason.TOOL_CALLS: "called tools",
    StopReason.TOOL_LIMIT: "reached the tool limit",
    StopReason.NOTHING_RELEVANT: "nothing relevant found",
    StopReason.REFUSAL: "refused",
    StopReason.CONTENT_FILTER: "content filter",
    StopReason.CANCELLED: "stopped",
    StopReason.ERROR: "failed",
    None: "cut off when chatlm closed",
}
"""Labels of stop reasons; None is an interrupted reply."""


def count(number: int, noun: str) -> str:
    """`1 token`, `1,204 tokens`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def speed(usage: Usage) -> str:
    """Return the decode speed, such as `31.2 tokens/s`; empty if unknown."""
    rate = usage.tokens_per_second
    if rate is None:
        return ""
    return f"{rate:,.0f} tokens/s" if rate >= 100 else f"{rate:.1f} tokens/s"


def writing_status(usage: Usage) -> str:
    """Return the status of a reply that is being written."""
    return join_parts("writing", count(usage.completion_tokens, "token"), speed(usage))


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
    return "" if reply.stop_reason is StopReason.END else STOP_LABELS[reply.stop_reason]


def version_text(turn: Turn) -> str:
    """Return which version of the reply is active; empty if there is only one."""
    if turn.reply is None or len(turn.replies) < 2:
        return ""
    return f"version {turn.reply.version} of {len(turn.replies)}"


def annotation_badges(annotations: Iterable[Annotation]) -> str:
    """Return the annotations of a message, one per line, such as `mood calm (0.93)`."""
    return "\n".join(map(_badge, annotations))


def reply_cost(reply: Reply | None) -> str:
    """Return the adapter, tokens and speed of a reply, if known."""
    if reply is None:
        return ""
    adapter = f"adapter {one_line(reply.adapter, 20)}" if reply.adapter else ""
    tokens = reply.usage.completion_tokens
    return join_parts(adapter, *([count(tokens, "token"), speed(reply.usage)] if tokens else []))


def _badge(annotation: Annotation) -> str:
    score = "" if annotation.score is None else f" ({annotation.score:.2f})"
    icon = f"{one_line(annotation.icon, 8)} " if annotation.icon else ""
    return f"{icon}{one_line(annotation.name, 40)} {one_line(annotation.value, 100)}{score}"


def join_parts(*parts: str) -> str:
    """Join the non-empty parts with dots."""
    return " · ".join(part for part in parts if part)
