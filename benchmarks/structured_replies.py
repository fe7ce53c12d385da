"""Whole replies, and whether they fit their schemas."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from chatlm.types.events import Delta, EngineEvent, Finished
from chatlm.types.replies import StopReason, Usage
from chatlm.types.schemas import SchemaMismatch, parse_reply


@dataclasses.dataclass(frozen=True)
class Reply:
    """One whole reply."""

    text: str
    stop_reason: StopReason
    usage: Usage


def collect(events: Iterable[EngineEvent | Exception]) -> Reply:
    """Return the reply of a stream."""
    text, ending = "", None
    for event in events:
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Delta) and event.part == "text":
            text += event.text
        elif isinstance(event, Finished):
            ending = event
    assert ending is not None
    return Reply(text, ending.stop_reason, ending.usage)


def judge(schema: Any, reply: Reply) -> str:
    """Return whether a reply fits its schema, does not, or was cut."""
    if reply.stop_reason is not StopReason.END:
        return "cut"
    try:
        parse_reply(schema, reply.text)
    except SchemaMismatch:
        return "does not fit"
    return "fits"
