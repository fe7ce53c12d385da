"""What plugins did for the turns of a chat, as lines of text and as plain values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from chatlm.cli.replay import marked
from chatlm.messages import Conversation, Turn
from chatlm.replay import differences
from chatlm.store.export import title_of
from chatlm.store.lookups import TracesOf
from chatlm.text import one_line, visible
from chatlm.trace import Call, Change, Trace, duration

_WIDTH = 72
_NAME, _HOOK = 16, 20
_INDENT = " " * 14


def trace_lines(conversation: Conversation, traces: TracesOf) -> Iterator[str]:
    """Each turn with every call of a plugin; ready for a terminal."""
    yield f"{conversation.id}  {one_line(title_of(conversation), _WIDTH)}"
    for turn in conversation.turns:
        yield ""
        yield f"Turn {turn.position + 1}: {one_line(turn.words, _WIDTH)}"
        found = traces(turn.id)
        if not found:
            yield "  no plugin took part"
        for trace in found:
            yield f"  {_head(turn, trace)}, {duration(trace.seconds)}"
            for call in trace.calls:
                yield from _call(call)


def trace_values(conversation: Conversation, traces: TracesOf) -> list[dict[str, Any]]:
    """The same as plain values, ready for JSON: one object for each message and each reply."""
    return [
        {"turn": turn.position + 1, "version": _version(turn, trace), **trace.to_dict()}
        for turn in conversation.turns
        for trace in traces(turn.id)
    ]


def _version(turn: Turn, trace: Trace) -> int | None:
    return next((reply.version for reply in turn.replies if reply.id == trace.reply), None)


def _head(turn: Turn, trace: Trace) -> str:
    version = _version(turn, trace)
    return "Message" if version is None else f"Version {version} of the reply"


def _call(call: Call) -> Iterator[str]:
    plugin, hook = one_line(call.plugin, _NAME), one_line(call.hook, _HOOK)
    said = one_line(call.said, 300) or ("" if call.error or call.changes else "nothing")
    row = f"    {duration(call.seconds):>8}  {plugin:<{_NAME}}  {hook:<{_HOOK}}  {said}"
    yield row.rstrip()
    if call.error:
        yield _INDENT + click.style(f"failed: {one_line(call.error, 300)}", fg="red")
    for change in call.changes:
        yield from _change(change)


def _change(change: Change) -> Iterator[str]:
    pieces = "".join(marked(piece) for piece in differences(change.before, change.after))
    head, *others = pieces.split("\n")
    yield f"{_INDENT}{visible(change.what)}: {head}"
    for line in others:
        yield f"{_INDENT}  {line}"
