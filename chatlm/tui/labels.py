"""What the screen says about replies and numbers, as plain text; knows no widget."""

from __future__ import annotations

from chatlm.messages import Reply, StopReason, Turn, Usage

STOP_LABELS: dict[StopReason | None, str] = {
    StopReason.END: "complete",
    StopReason.STOP_STRING: "ended at a stop string",
    StopReason.LENGTH: "reached the length limit",
    StopReason.CONTEXT_FULL: "context full",
    StopReason.CRITERION: "ended by a stopping rule",
    StopReason.CANCELLED: "stopped",
    StopReason.ERROR: "failed",
    None: "cut off when chatlm closed",
}
"""Why a reply ended; None is a stored reply that no program is writing any more."""


def count(number: int, noun: str) -> str:
    """`1 token`, `1,204 tokens`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def speed(usage: Usage) -> str:
    """Decode speed such as `31.2 tokens/s`; empty when it is not known."""
    rate = usage.tokens_per_second
    if rate is None:
        return ""
    return f"{rate:,.0f} tokens/s" if rate >= 100 else f"{rate:.1f} tokens/s"


def growing(usage: Usage) -> str:
    """The line below a reply that is being written."""
    return _joined("writing", count(usage.completion_tokens, "token"), speed(usage))


def ended(turn: Turn) -> str:
    """The line below a turn that nothing is working on: why it ended, its version, its cost."""
    reply = turn.reply
    if reply is None:
        return "not answered"
    label = "" if reply.stop_reason is StopReason.END else STOP_LABELS[reply.stop_reason]
    tokens = reply.usage.completion_tokens
    cost = (count(tokens, "token"), speed(reply.usage)) if tokens else ()
    return _joined(label, _version(reply, turn), *cost)


def _version(reply: Reply, turn: Turn) -> str:
    if len(turn.replies) < 2:
        return ""
    return f"version {reply.version} of {len(turn.replies)}"


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)
