"""The running turn as the screen's thread sees it; it lives on while its chat is not shown."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass, field

from chatlm.events import Fitted, MessageAnnotated, Prefill, ReplyStarted
from chatlm.messages import Kept, Reply, StopReason, Turn
from chatlm.sampling import Sampling
from chatlm.store import Store
from chatlm.tui import commands, labels
from chatlm.tui.messages import TextGathered
from chatlm.tui.widgets.status_bar import Status
from chatlm.tui.widgets.turn_view import TurnView


@dataclass
class OpenChat:
    """A chat that is shown or answering; `conversation_id` comes with its first message."""

    store: Store
    conversation_id: int | None = None
    system: str = ""
    """The system prompt that a new one will have."""
    sampling: Sampling = field(default_factory=Sampling)
    """What the person set for a new one."""
    kept: Kept = field(default_factory=dict)
    """What plugins keep with a new one."""
    without: frozenset[str] = frozenset()
    """Plugins that are switched off in a new one."""


@dataclass
class LiveTurn:
    """What a worker is busy with. The worker knows `stop` and `done` only."""

    chat: OpenChat
    sent: str = ""
    """The message, until it is stored; goes back to the composer if it cannot be."""
    turn: Turn | None = None
    reply: Reply | None = None
    """The reply that grows, with its text so far."""
    view: TurnView | None = None
    """Where it is drawn; None while its chat is not shown."""
    line: str = ""
    status: Status = field(default_factory=Status)
    stop: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    """Set by the worker when all is stored."""

    async def attach(self, view: TurnView) -> None:
        """Draw into `view` from now on."""
        self.view = view
        if self.reply is not None:
            await view.begin(self.reply)
        view.say(self.line)

    def say(self, line: str) -> None:
        """Show what is being done."""
        self.line = line
        if self.view is not None:
            self.view.say(line)

    async def progress(self, event: MessageAnnotated | ReplyStarted | Fitted | Prefill) -> None:
        """Take a step of the generation."""
        match event:
            case MessageAnnotated(role="user", annotations=labels):
                if self.view is not None:
                    self.view.label(labels)
            case ReplyStarted(reply=reply):
                self.reply = reply
                if self.view is not None:
                    await self.view.begin(reply)
            case Fitted(prompt_tokens=used):
                self.status = Status(used=used, reason="reading")
                self.say("reading your message")
            case Prefill(done=done, total=total) if done < total:
                self.say(f"reading {done:,} of {total:,} tokens")

    async def grow(self, gathered: TextGathered) -> None:
        """Take new text."""
        if self.reply is not None:
            self.reply = dataclasses.replace(self.reply, text=self.reply.text + gathered.text)
        if self.view is not None:
            await self.view.grow(gathered.text)
        usage = gathered.usage
        self.say(f"{labels.growing(usage)} · {commands.key_of('stop')} stops")
        used = usage.prompt_tokens + usage.completion_tokens
        self.status = Status(used=used, speed=labels.speed(usage), reason="writing")

    def with_seen(self, stored: Turn) -> Turn:
        """The stored turn, with the text that was seen where only its beginning is on disk."""
        seen = self.reply
        replies = tuple(
            dataclasses.replace(reply, text=seen.text)
            if seen
            and reply.id == seen.id
            and len(reply.text) < len(seen.text)
            and seen.text.startswith(reply.text)
            else reply
            for reply in stored.replies
        )
        return dataclasses.replace(stored, replies=replies)

    def unstored(self, turn: Turn) -> Turn:
        """The turn as it was seen, when it cannot be read from the store."""
        if self.reply is None:
            return turn
        reply = dataclasses.replace(self.reply, stop_reason=StopReason.ERROR)
        others = tuple(other for other in turn.replies if other.id != reply.id)
        return dataclasses.replace(turn, replies=(*others, reply), chosen=reply.id)
