"""What the worker threads tell the screen; each is posted, none calls a widget."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message

from chatlm.errors import ChatlmError
from chatlm.events import (
    Fitted,
    MessageAnnotated,
    Notice,
    Prefill,
    ReplyStarted,
    TurnStarted,
)
from chatlm.messages import Usage
from chatlm.tui.loading import EngineState


@dataclass
class EngineChanged(Message):
    """The engine began to load, came further, is ready, or failed."""

    state: EngineState


@dataclass
class TurnProgressed(Message):
    """A step of the running turn other than new text."""

    event: TurnStarted | MessageAnnotated | ReplyStarted | Fitted | Prefill | Notice


@dataclass
class TextGathered(Message):
    """The reply grew by `text`, which may be many tokens."""

    text: str
    usage: Usage
    """What the generation has cost up to the end of `text`."""


@dataclass
class TurnEnded(Message):
    """The worker is done; everything it had to store is stored."""

    error: ChatlmError | None = None
    """What made it end early, unless the person stopped it."""
