"""The running turn, its worker thread and messages."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from chatlm.chat.session import ChatSession
from chatlm.chat.thought_meter import ThoughtMeter
from chatlm.chat.turn_runner import SessionEvents
from chatlm.errors import ChatlmError
from chatlm.text import one_line
from chatlm.tui import formatting
from chatlm.tui.chat.chat_view import ChatView
from chatlm.tui.chat.status import Status
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.services import OpenChat
from chatlm.tui.workers import UPDATES_PER_SECOND, to_user_error
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.events import (
    ApprovalNeeded,
    Delta,
    Finished,
    MessageAnnotated,
    MessageRewritten,
    Notice,
    PassagesFound,
    Prefill,
    PromptReady,
    ReplyStarted,
    StepStarted,
    ToolEvent,
    ToolFinished,
    ToolProgress,
    ToolQuestion,
    ToolStarted,
    TurnFinished,
    TurnStarted,
    TurnWithdrawn,
)
from chatlm.types.parts import Part, Reasoning, ToolCall, ToolResult
from chatlm.types.replies import Reply, ReplyStep, StopReason, StreamedPart, Usage


@dataclass
class LiveTurn:
    """A running turn and where it is drawn; its worker thread uses only `stop` and `done`."""

    chat: OpenChat
    chat_at_start: OpenChat
    """A copy of `chat`: the settings that a new conversation is created with, and the chat to go
    back to if the message is refused."""
    draft_at_start: str = ""
    """The composer's draft when an edited message was stored in a fork."""
    unsaved_message: str = ""
    """The message while it is not stored; returned to the composer if it stays so."""
    turn: Turn | None = None
    reply: Reply | None = None
    """The streaming reply with its text so far."""
    view: TurnView | None = None
    """Where the turn is drawn; None while its chat is not open."""
    meter: ThoughtMeter = field(default_factory=ThoughtMeter)
    """Measures the thoughts of the streaming reply."""
    activity: str = ""
    status: Status = field(default_factory=Status)
    stop: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    """Set by the worker when everything is stored."""

    async def attach(self, view: TurnView) -> None:
        """Draw into `view` from now on."""
        self.view = view
        if self.reply is not None:
            await view.begin_reply(self.reply)
        view.show_activity(self.activity)

    def show_activity(self, activity: str) -> None:
        """Show the current activity below the reply."""
        self.activity = activity
        if self.view is not None:
            self.view.show_activity(activity)

    async def apply_event(self, event: PROGRESS_EVENTS) -> None:
        """Apply an event other than new text."""
        match event:
            case MessageRewritten(turn=turn):
                self.turn = turn
                if self.view is not None:
                    self.view.show_rewritten(turn)
            case MessageAnnotated(role="user", annotations=labels):
                if self.view is not None:
                    self.view.show_annotations(labels)
            case PassagesFound(images=images):
                if self.turn is not None:
                    self.turn = dataclasses.replace(self.turn, passage_images=images)
                if self.view is not None:
                    await self.view.show_passage_images(images)
            case ReplyStarted(reply=reply):
                self.reply = reply
                last = reply.parts[-1] if reply.parts else None
                self.meter = ThoughtMeter(last if isinstance(last, Reasoning) else None)
                if self.view is not None:
                    await self.view.begin_reply(reply)
            case Finished(tool_calls=calls) if self.reply is not None:
                *earlier, step = self.reply.steps
                step = dataclasses.replace(step, parts=(*step.parts, *calls))
                await self._show_reply(dataclasses.replace(self.reply, steps=(*earlier, step)))
            case ToolFinished(reply=reply):
                await self._show_reply(reply)
            case StepStarted(reply=reply):
                await self._show_reply(reply)
                self.reply = dataclasses.replace(reply, steps=(*reply.steps, ReplyStep()))
                self.meter = ThoughtMeter()
            case ApprovalNeeded(call=call) | ToolQuestion(call=call):
                self._show_tool(call, "waits for you", "")
            case ToolStarted(call=call):
                self._show_tool(call, "running", "")
            case ToolProgress(call=call, seconds=seconds):
                done = "" if event.fraction is None else f"{event.fraction:.0%}"
                cost = f"{seconds:.0f} s" if seconds >= 1 else ""
                facts = formatting.join_parts(cost, done, one_line(event.text, 100))
                self._show_tool(call, "running", facts)
            case PromptReady(prompt_tokens=used):
                self.status = Status(used_tokens=used, reason="reading")
                self.show_activity("reading your message")
            case Prefill(done=done, total=total) if done < total:
                self.show_activity(f"reading {done:,} of {total:,} tokens")

    async def _show_reply(self, reply: Reply) -> None:
        """Show the reply with calls and results so far.

        A call that runs has a result for the case that the program ends, which is left out here.
        """
        *earlier, step = reply.steps
        parts = tuple(part for part in step.parts if not _stands_for_running(part))
        step = dataclasses.replace(step, parts=parts)
        self.reply = reply = dataclasses.replace(reply, steps=(*earlier, step))
        if self.view is not None:
            await self.view.show_reply(reply)

    def _show_tool(self, call: ToolCall, state: str, facts: str) -> None:
        """Show what a call does, in its line and in the status."""
        if self.view is not None:
            self.view.show_tool_state(call.id, formatting.join_parts(state, facts))
        name = one_line(call.name, 64)
        self.show_activity(formatting.join_parts(f"{name} {state}", facts))
        self.status = dataclasses.replace(self.status, reason=f"{name} {state}")

    async def append_text(self, streamed: TextStreamed) -> None:
        """Append streamed text."""
        text, part, usage = streamed.text, streamed.part, streamed.usage
        self.meter.add(text, part, usage)
        thought = self.meter.thought("") if part == "reasoning" else None
        if self.reply is not None:
            self.reply = self.reply.with_delta(text, part, thought)
        if self.view is not None:
            await self.view.append_text(text, part, thought)
        self.show_activity(formatting.writing_status(usage, part))
        used = usage.prompt_tokens + usage.completion_tokens
        reason = "thinking" if part == "reasoning" else "writing"
        self.status = Status(used_tokens=used, speed=formatting.speed(usage), reason=reason)

    def with_streamed_text(self, stored: Turn) -> Turn:
        """Return the stored turn, with the streamed text where only its start was stored."""
        seen = self.reply
        replies = tuple(
            dataclasses.replace(reply, steps=seen.with_stop_reason(reply.stop_reason).steps)
            if seen and reply.id == seen.id and _continues(reply, seen)
            else reply
            for reply in stored.replies
        )
        return dataclasses.replace(stored, replies=replies)

    def as_unsaved(self, turn: Turn) -> Turn:
        """Return the turn as streamed, for when it cannot be read from the store."""
        if self.reply is None:
            return turn
        reply = self.reply.with_stop_reason(StopReason.ERROR)
        others = tuple(other for other in turn.replies if other.id != reply.id)
        return dataclasses.replace(turn, replies=(*others, reply), active_reply_id=reply.id)


def _stands_for_running(part: Part) -> bool:
    return isinstance(part, ToolResult) and part.outcome == "interrupted"


def _continues(stored: Reply, streamed: Reply) -> bool:
    """Whether the streamed reply is the stored one with more text or reasoning."""
    return (
        (stored.text, stored.reasoning) != (streamed.text, streamed.reasoning)
        and streamed.text.startswith(stored.text)
        and streamed.reasoning.startswith(stored.reasoning)
    )


log = logging.getLogger(__name__)


PROGRESS_EVENTS = (
    TurnStarted
    | MessageRewritten
    | PassagesFound
    | TurnWithdrawn
    | MessageAnnotated
    | ReplyStarted
    | PromptReady
    | Prefill
    | Finished
    | StepStarted
    | ToolEvent
    | Notice
)
"""Events that are shown at once."""


ANSWER_POLL_SECONDS = 0.1
"""How often a turn that waits for the user looks whether it was stopped."""


def run_turn(
    open_events: Callable[[], SessionEvents],
    stop: threading.Event,
    post: Callable[[TurnMessage], object],
    read_turn: Callable[[int], Turn],
    turn_id: int | None = None,
) -> None:
    """Start a turn and pull its events to the end, or until `stop` is set.

    The last message posted is always `TurnEnded`.

    The generator is closed in this thread, so the reply is stored when `TurnEnded` is posted.

    Args:
        open_events: starts the turn.
        stop: ends it.
        post: called with each message.
        read_turn: reads the turn as it is stored, if it does not finish.
        turn_id: the turn, if it is stored already.
    """
    gathered = _DeltaBatcher(post)
    error: ChatlmError | None = None
    turn: Turn | None = None
    try:
        with closing(open_events()) as events:
            for event in events:
                match event:
                    case TurnStarted(turn=started):
                        turn_id = started.id
                    case TurnWithdrawn():
                        turn_id = None
                    case TurnFinished(turn=finished):
                        turn = finished
                if isinstance(event, Delta):
                    gathered.add(event)
                elif isinstance(event, Finished) and not event.tool_calls:
                    gathered.flush()
                elif isinstance(event, PROGRESS_EVENTS):
                    gathered.flush()
                    answered = None
                    if isinstance(event, ApprovalNeeded | ToolQuestion):
                        answered = threading.Event()
                    post(TurnProgressed(event, answered))
                    while answered is not None and not stop.is_set():
                        if answered.wait(ANSWER_POLL_SECONDS):
                            break
                if stop.is_set():
                    break
    except Exception as problem:
        error = to_user_error(problem, "turn")
    gathered.flush()
    unread: ChatlmError | None = None
    if turn is None and turn_id is not None:
        try:
            turn = read_turn(turn_id)
        except Exception as problem:
            unread = to_user_error(problem, "reading a turn")
    post(TurnEnded(error, turn, unread))


class ReadAhead:
    """Lets the model read the open chat in a thread, until the next message.

    Args:
        view: runs the worker.
    """

    def __init__(self, view: ChatView) -> None:
        self._view = view
        self._stop = threading.Event()

    def start(
        self,
        create_session: Callable[[threading.Event], ChatSession],
        conversation: Conversation,
        on_compacted: Callable[[Turn], object] | None,
    ) -> None:
        """Stop reading, and start again with a new session.

        Args:
            create_session: gets the event that stops its wait for the engine.
            conversation: the chat.
            on_compacted: see `read_ahead`; called in the worker thread.
        """
        self.stop()
        self._stop = stop = threading.Event()
        self._view.run_worker(
            partial(read_ahead, create_session(stop), conversation, stop, on_compacted),
            thread=True,
            group="ahead",
            exit_on_error=False,
        )

    def stop(self) -> None:
        """Stop reading at the next step."""
        self._stop.set()


def read_ahead(
    session: ChatSession,
    conversation: Conversation,
    stop: threading.Event,
    on_compacted: Callable[[Turn], object] | None,
) -> None:
    """Prefill the chat while the user reads and types, until `stop` is set.

    Args:
        session: of the chat.
        conversation: the chat.
        stop: ends the work at the next step.
        on_compacted: called with each turn that got a summary, since it does not fit the context;
            None to summarise none.
    """
    try:
        if on_compacted is not None:
            with closing(session.compact(conversation)) as turns:
                for turn in turns:
                    if turn is not None:
                        conversation = conversation.with_turn(turn)
                        on_compacted(turn)
                    if stop.is_set():
                        return
        with closing(session.read_ahead(conversation)) as steps:
            for _ in steps:
                if stop.is_set():
                    break
    except ChatlmError as problem:  # the next turn will say it, if it still holds
        log.info("did not read ahead: %s", problem)


class _DeltaBatcher:
    """Joins deltas of one part, so that the screen gets at most `UPDATES_PER_SECOND` messages."""

    def __init__(self, post: Callable[[TurnMessage], object]) -> None:
        self._post = post
        self._texts: list[str] = []
        self._part: StreamedPart = "text"
        self._usage = Usage()
        self._posted_at = 0.0

    def add(self, delta: Delta) -> None:
        if delta.part != self._part:
            self.flush()
            self._part = delta.part
        self._texts.append(delta.text)
        self._usage = delta.usage
        if time.monotonic() - self._posted_at >= 1 / UPDATES_PER_SECOND:
            self.flush()

    def flush(self) -> None:
        if not self._texts:
            return
        self._post(TextStreamed("".join(self._texts), self._usage, self._part))
        self._texts.clear()
        self._posted_at = time.monotonic()


@dataclass(frozen=True)
class TurnProgressed:
    """A step of the running turn other than new text."""

    event: PROGRESS_EVENTS
    answered: threading.Event | None = None
    """Of an event that waits for the user: set when its answer is there."""


@dataclass(frozen=True)
class TextStreamed:
    """New text of the reply, of one or many tokens."""

    text: str
    usage: Usage
    """Usage up to the end of `text`."""
    part: StreamedPart = "text"
    """The part of the reply that it belongs to."""


@dataclass(frozen=True)
class TurnEnded:
    """The end of the worker; everything is stored."""

    error: ChatlmError | None = None
    """The error that ended the turn, unless the user stopped it."""
    turn: Turn | None = None
    """The turn as it is stored now; None if it is not, or cannot be read."""
    unread: ChatlmError | None = None
    """Why it cannot be read."""


TurnMessage = TurnProgressed | TextStreamed | TurnEnded
"""What the worker posts to the UI thread."""
