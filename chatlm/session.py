"""One conversation and one turn of it from start to end; knows no screen and makes no thread."""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress

from chatlm.errors import ChatlmError, EngineError, StoreError, UsageError
from chatlm.events import (
    Delta,
    Finished,
    Fitted,
    MessageAnnotated,
    Notice,
    PassagesFound,
    Prefill,
    ReplyStarted,
    SessionEvent,
    TurnFinished,
    TurnStarted,
)
from chatlm.generation import Engine, Request
from chatlm.growing import GrowingReply
from chatlm.messages import (
    Annotation,
    Conversation,
    Message,
    Passage,
    Reply,
    Turn,
)
from chatlm.plugins import PluginHost
from chatlm.sampling import DEFAULTS, Sampling
from chatlm.store import Store

log = logging.getLogger(__name__)

Events = Generator[SessionEvent, None, None]


class ChatSession:
    """A chat that goes on: `send`, `regenerate` and `continue_reply` are pulled for their events.

    Closing a generator cancels the turn: what was said so far is kept with stop reason
    `cancelled`. Everything is stored before it is reported.

    Args:
        store: where the chat is kept; one in memory for an incognito chat.
        engine: gives the loaded engine; may wait for it, and is called only after the user's
            message is stored.
        plugins: whose hooks are called.
        sampling: the person's settings; what they leave open is the model's.
        system: the system prompt of a new conversation.
        conversation_id: the conversation to go on with; None begins one at the first message.
    """

    def __init__(
        self,
        store: Store,
        engine: Callable[[], Engine],
        *,
        plugins: PluginHost | None = None,
        sampling: Sampling | None = None,
        system: str = "",
        conversation_id: int | None = None,
    ) -> None:
        self.store = store
        self.engine = engine
        self.plugins = plugins or PluginHost()
        self.sampling = sampling or Sampling()
        self.system = system
        self.conversation_id = conversation_id

    @property
    def conversation(self) -> Conversation | None:
        """The conversation as it is stored now; None before the first message."""
        if self.conversation_id is None:
            return None
        return self.store.conversation(self.conversation_id)

    def send(self, text: str) -> Events:
        """Store the user's message, then answer it.

        Raises:
            UsageError: the text is blank.
            StoreError: the message could not be stored; nothing was changed.
            EngineError: the generation failed; the message and what was said are stored.
        """
        if not text.strip():
            raise UsageError("There is nothing to send", hint="Type a message first.")
        turn = self._store_message(text)
        yield TurnStarted(self._id, turn)
        conversation = self.store.conversation(self._id)
        labels = self._annotate(conversation, turn, None, turn.user)
        if labels:
            yield MessageAnnotated("user", labels)
        yield from self._notices()
        passages = self.plugins.gather(
            "retrieve_passages", Passage, conversation=conversation, message=turn.user
        )
        if passages:
            self.store.save_passages(turn.id, passages)
            yield PassagesFound(tuple(passages))
        yield from self._notices()
        yield from self._answer(turn)

    def regenerate(self) -> Events:
        """Answer the newest turn once more; the earlier replies stay as its versions.

        A model that by default always takes the likeliest token would only repeat itself, so it
        draws freely here, unless the person set the temperature.
        """
        return self._answer(self._newest_turn(), again=True)

    def continue_reply(self) -> Events:
        """Go on with the newest reply from its own end.

        Raises:
            UsageError: the reply ended by itself, so there is nothing to go on with.
        """
        turn = self._newest_turn()
        if turn.reply is not None and not turn.reply.can_continue:
            raise UsageError(
                "The last reply is complete", hint="Regenerate it, or ask for more in a message."
            )
        return self._answer(turn, turn.reply)

    def read_ahead(self) -> Generator[Prefill, None, None]:
        """Let the model read the chat so far while the person reads and types.

        Meant to be pulled when nothing else is to do, and closed when there is; nothing is stored.
        """
        conversation = self.conversation
        if conversation is None or not conversation.turns:
            return
        engine = self.engine()
        request = Request(conversation.messages(), sampling=self.sampling)
        with closing(engine.read_ahead(request)) as events:
            yield from events

    def _store_message(self, text: str) -> Turn:
        """Store the message as a turn; a new chat is stored with it, or not at all."""
        if self.conversation_id is not None:
            return self.store.add_turn(self.conversation_id, text)
        fresh = self.store.create_conversation(system=self.system).id
        try:
            turn = self.store.add_turn(fresh, text)
        except StoreError:
            with suppress(StoreError):
                self.store.delete(fresh)
            raise
        self.conversation_id = fresh
        return turn

    def _newest_turn(self) -> Turn:
        conversation = self.conversation
        if conversation is None or not conversation.turns:
            raise UsageError("This chat has no message yet", hint="Type one first.")
        return conversation.turns[-1]

    def _answer(self, turn: Turn, reply: Reply | None = None, *, again: bool = False) -> Events:
        """Make a new reply to the turn, or go on with `reply`; `again` if there was one before."""
        engine = self.engine()
        request = self._request(turn, engine, reply)
        sampling = request.sampling
        if again and engine.info.defaults.temperature == 0:
            sampling = sampling.over(Sampling(temperature=DEFAULTS.temperature))
        sampling = sampling.over(engine.info.defaults)
        if sampling.seed is None:
            sampling = dataclasses.replace(sampling, seed=secrets.randbelow(2**31))
        request = dataclasses.replace(request, sampling=sampling)
        yield from self._notices()
        settings = json.dumps(request.sampling.to_dict())
        if reply is None:
            reply = self.store.start_reply(
                turn.id, model=engine.info.model, adapter=request.adapter, settings=settings
            )
        else:
            self.store.journal(reply.id, reply.text)
        growing = GrowingReply(self.store, reply, settings)
        try:
            yield ReplyStarted(turn.id, reply)
            with closing(engine.stream(request)) as events:
                for event in events:
                    problem = growing.take(event) if isinstance(event, Delta | Finished) else None
                    if problem is not None:
                        yield Notice(problem)
                    if isinstance(event, Fitted) and event.left_out:
                        yield Notice(_left_out(event))
                    yield event
        except ChatlmError as error:
            growing.fail(error)
            raise
        except Exception as error:  # a plugin's processor or the model itself broke
            log.exception("generation failed")
            told = EngineError(
                f"The reply failed: {type(error).__name__}: {error}",
                hint="What was said is kept. `chatlm logs` has the details.",
            )
            growing.fail(told)
            raise told from error
        finally:
            growing.close()
            if not growing.ended:
                self._finish_unseen(turn)
        yield from self._finish(turn)

    def _request(self, turn: Turn, engine: Engine, reply: Reply | None) -> Request:
        """Messages by the first plugin that makes them, else the core's; then all adjustments."""
        conversation = self.store.conversation(self._id)
        made = self.plugins.first("build_messages", Message, conversation=conversation, turn=turn)
        messages = made or default_messages(conversation, turn, self.store.passages(turn.id))
        if reply is not None and reply.text:
            messages = [*messages, Message("assistant", reply.text)]
        request: Request = self.plugins.fold(
            "adjust_request",
            "request",
            Request(tuple(messages), sampling=self.sampling),
            turn=turn,
            engine=engine,
        )
        return request

    @property
    def _id(self) -> int:
        if self.conversation_id is None:
            raise UsageError("This chat has no message yet", hint="Type one first.")
        return self.conversation_id

    def _finish(self, turn: Turn) -> Iterator[SessionEvent]:
        """Label the stored reply and tell the plugins."""
        conversation = self.store.conversation(self._id)
        turn = self.store.turn(turn.id)
        if turn.reply is not None and turn.reply.text:
            message = Message("assistant", turn.reply.text)
            labels = self._annotate(conversation, turn, turn.reply.id, message)
            if labels:
                yield MessageAnnotated("assistant", labels)
        for _ in self.plugins.each("turn_finished", conversation=conversation, turn=turn):
            pass
        yield from self._notices()
        yield TurnFinished(turn)

    def _finish_unseen(self, turn: Turn) -> None:
        """The same for a reply that was stopped or failed, when nobody listens any more."""
        try:
            for _ in self._finish(turn):
                pass
        except ChatlmError as error:
            log.error("turn not finished: %s", error)

    def _annotate(
        self, conversation: Conversation, turn: Turn, reply_id: int | None, message: Message
    ) -> tuple[Annotation, ...]:
        labels = self.plugins.gather(
            "annotate_message", Annotation, conversation=conversation, message=message
        )
        if labels:
            self.store.annotate(turn.id, reply_id, labels)
        return tuple(labels)

    def _notices(self) -> Iterator[Notice]:
        for fault in self.plugins.take_faults():
            yield Notice(str(fault))


def default_messages(
    conversation: Conversation, turn: Turn, passages: Sequence[Passage]
) -> list[Message]:
    """History, then the user's message; passages stand inside that message, so that the tokens of
    the earlier conversation stay the same and need not be read again."""
    history = list(conversation.messages(before=turn.position))
    if not passages:
        return [*history, turn.user]
    numbered = "\n\n".join(
        f"[{number}] {passage.source}\n{passage.text}"
        for number, passage in enumerate(passages, start=1)
    )
    return [*history, Message("user", f"Sources:\n\n{numbered}\n\n{turn.user.content}")]


def _left_out(event: Fitted) -> str:
    turns = sum(message.role == "user" for message in event.left_out)
    what = "the oldest turn" if turns == 1 else f"the {turns} oldest turns"
    return f"The context holds {event.limit} tokens: {what} of this chat did not fit any more."
