"""One chat that goes on: all that is done to it; knows no screen and makes no thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass

from chatlm.chat import request_builder
from chatlm.chat import summary as summary_module
from chatlm.chat.context_usage import ContextUsage, measure_context
from chatlm.chat.turn_runner import SessionEvents, TurnRunner
from chatlm.errors import ChatlmError, StoreError, UsageError
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.turn_plugins import TurnPlugins
from chatlm.store.store import Store
from chatlm.types.engine import Engine
from chatlm.types.events import Prefill
from chatlm.types.messages import (
    ContextPolicy,
    Conversation,
    Message,
    Passage,
    PluginData,
    StopReason,
    Turn,
    Usage,
)
from chatlm.types.requests import Prompt, Request
from chatlm.types.sampling import Sampling


@dataclass(frozen=True)
class Preview:
    """What would be sent."""

    request: Request
    prompt: Prompt
    passages: tuple[Passage, ...]
    """What was found for the message."""


class ChatSession:
    """A chat that goes on: `send`, `edit`, `regenerate` and `continue_reply` are pulled for their
    events.

    Closing a generator cancels the turn: what was said so far is kept with stop reason
    `cancelled`. Everything is stored before it is reported.

    Args:
        store: where the chat is kept; one in memory for an incognito chat.
        get_engine: gives the loaded engine; may wait for it, and is called only after the user's
            message is stored.
        plugins: whose hooks are called.
        sampling: the person's settings for all chats; what they leave open is the model's.
        session_sampling: settings of this session only; they go before the chat's own, as these
            do before `sampling`.
        system: the system prompt of a new conversation.
        chat_sampling: what the person set for a new conversation alone.
        adapter: used in this session before all that plugins would choose, "" for the model
            without one; None leaves it to them.
        logprobs: see `Request.logprobs`; they are in the events alone, and not stored.
        plugin_data: what plugins keep with a new conversation.
        disabled_plugins: plugins that are switched off in a new conversation.
        conversation_id: the conversation to go on with; None begins one at the first message.
    """

    def __init__(
        self,
        store: Store,
        get_engine: Callable[[], Engine],
        *,
        plugins: PluginHost | None = None,
        sampling: Sampling | None = None,
        session_sampling: Sampling | None = None,
        system: str = "",
        chat_sampling: Sampling | None = None,
        adapter: str | None = None,
        logprobs: int | None = None,
        plugin_data: PluginData | None = None,
        disabled_plugins: Iterable[str] = (),
        conversation_id: int | None = None,
    ) -> None:
        self.store = store
        self.get_engine = get_engine
        self.plugins = plugins or PluginHost()
        self.sampling = sampling or Sampling()
        self.session_sampling = session_sampling or Sampling()
        self.system = system
        self.chat_sampling = chat_sampling or Sampling()
        self.adapter = adapter
        self.logprobs = logprobs
        self.plugin_data = plugin_data or {}
        self.disabled_plugins = frozenset(disabled_plugins)
        self.conversation_id = conversation_id

    @property
    def conversation(self) -> Conversation | None:
        """The conversation as it is stored now; None before the first message."""
        if self.conversation_id is None:
            return None
        return self.store.conversation(self.conversation_id)

    def send(self, text: str) -> SessionEvents:
        """Store the user's message, then answer it.

        Raises:
            UsageError: the text is blank, or a plugin refuses it.
            StoreError: the message could not be stored; nothing was changed.
            EngineError: the generation failed; the message and what was said are stored.
        """
        _check_not_blank(text)
        turn, plugins = self._store_message(text)
        yield from self._runner(plugins).run(turn)

    def edit(self, position: int, text: str) -> SessionEvents:
        """Ask again from an earlier turn, with another message, in a fork of the chat.

        The session goes on in the fork; nothing of the original changes.

        Args:
            position: of the turn whose message is changed, 0 for the first.
            text: the message in its place.

        Raises:
            UsageError: the text is blank, a plugin refuses it, or there is no such turn.
            StoreError: the fork or the message could not be stored; nothing was changed.
            EngineError: the generation failed; the message and what was said are stored.
        """
        _check_not_blank(text)
        original = self._stored_id
        turns = len(self.store.conversation(original).turns)
        if not 0 <= position < turns:
            raise UsageError(
                f"There is no message {position + 1} in this chat", hint=f"It has {turns}."
            )
        fork = self.store.fork(original, position).id
        try:
            turn, plugins = self._add_turn(fork, text)
        except ChatlmError:
            self._discard(fork)
            raise
        self.conversation_id = fork
        yield from self._runner(plugins).run(turn)

    def regenerate(self) -> SessionEvents:
        """Answer the newest turn once more; the earlier replies stay as its versions.

        A model that by default always takes the likeliest token would only repeat itself, so it
        draws freely here, unless the person set the temperature.
        """
        return self._runner(self._turn_plugins()).answer(self._newest_turn(), regenerate=True)

    def continue_reply(self) -> SessionEvents:
        """Go on with the newest reply from its own end.

        Raises:
            UsageError: the reply ended by itself, so there is nothing to go on with.
        """
        turn = self._newest_turn()
        if turn.reply is not None and not turn.reply.can_continue:
            raise UsageError(
                "The last reply is complete", hint="Regenerate it, or ask for more in a message."
            )
        return self._runner(self._turn_plugins()).answer(turn, turn.reply)

    def add(self, text: str, reply: str) -> None:
        """Store a message with a reply that was made elsewhere; nobody is asked for one.

        Raises:
            UsageError: the text is blank, or a plugin refuses it.
            StoreError: they could not be stored.
        """
        _check_not_blank(text)
        turn, _ = self._store_message(text)
        made = self.store.start_reply(turn.id, model="")
        self.store.finish_reply(made.id, text=reply, stop_reason=StopReason.END, usage=Usage())

    def read_ahead(self) -> Generator[Prefill, None, None]:
        """Let the model read the chat so far while the person reads and types.

        Meant to be pulled when nothing else is to do, and closed when there is; nothing is stored.
        """
        conversation = self.conversation
        if conversation is None or not conversation.turns:
            return
        engine = self.get_engine()
        last = conversation.turns[-1].reply
        adapter = last.adapter if last else None
        request = Request(conversation.messages(), self._effective_sampling(conversation), adapter)
        with closing(engine.read_ahead(request)) as events:
            yield from events

    def preview(self, text: str) -> Preview:
        """What would be sent if `text` were sent now, by the way of `send`; nothing is stored.

        A blank text shows what is sent for the newest turn.

        Raises:
            UsageError: the text is blank and there is no turn yet.
            ContextTooLong, ModelError: as `send`.
        """
        engine = self.get_engine()
        plugins = self._turn_plugins()
        chat, turn, passages = self._draft_turn(text, plugins)
        request = request_builder.build_request(
            chat,
            turn,
            passages,
            engine=engine,
            plugins=plugins,
            sampling=self._effective_sampling(chat),
            adapter=self.adapter,
        )
        return Preview(request, engine.preview(request), tuple(passages))

    def draft(self, text: str) -> Request:
        """The request for `text` as far as it is known without the model; nothing is stored.

        What plugins adjust, and the settings that the model decides, are left open.

        Raises:
            UsageError: the text is blank and there is no turn yet.
        """
        plugins = self._turn_plugins()
        chat, turn, passages = self._draft_turn(text, plugins)
        messages = request_builder.build_messages(chat, turn, passages, plugins)
        return Request(tuple(messages), self._effective_sampling(chat))

    def context_usage(self) -> ContextUsage:
        """How much of the context each turn takes, plugins left aside; see `measuring.measure`."""
        chat = self._conversation_or_new()
        return measure_context(chat, self.get_engine(), self._effective_sampling(chat))

    def summarise(self, turn_id: int) -> Generator[str, None, None]:
        """Let the model say in short what a turn was about; at the end that stands for the turn.

        Closing it early changes nothing.

        Raises:
            UsageError: the turn has no reply.
            EngineError: the generation failed, or nothing was said.
            StoreError: there is no such turn, or it could not be stored.
        """
        summary = ""
        with closing(
            summary_module.summarise_turn(self.get_engine(), self.store.turn(turn_id))
        ) as pieces:
            for piece in pieces:
                summary += piece
                yield piece
        self.store.set_context_policy(turn_id, ContextPolicy.SUMMARISED, summary.strip())

    def _store_message(self, text: str) -> tuple[Turn, TurnPlugins]:
        """Store the message as a turn; a new chat is stored with it, or not at all.

        Returns:
            the turn, and the plugins that it began with.
        """
        if self.conversation_id is not None:
            return self._add_turn(self.conversation_id, text)
        new = self._conversation_or_new()
        fresh = self.store.create_conversation(
            system=new.system,
            sampling=new.sampling,
            plugin_data=new.plugin_data,
            disabled_plugins=new.disabled_plugins,
        ).id
        try:
            begun = self._add_turn(fresh, text)
        except ChatlmError:
            self._discard(fresh)
            raise
        self.conversation_id = fresh
        return begun

    def _add_turn(self, conversation_id: int, text: str) -> tuple[Turn, TurnPlugins]:
        chat = self.store.conversation(conversation_id)
        plugins = TurnPlugins(self.plugins, chat.disabled_plugins)
        message = request_builder.message_from_input(chat, text, plugins)
        typed = text if message != text else ""
        return self.store.add_turn(conversation_id, message, typed), plugins

    def _discard(self, conversation_id: int) -> None:
        """Remove a chat that was made for a message which then could not be stored."""
        with suppress(StoreError):
            self.store.delete(conversation_id)

    def _conversation_or_new(self) -> Conversation:
        return self.conversation or Conversation(
            0,
            system=self.system,
            sampling=self.chat_sampling,
            plugin_data=self.plugin_data,
            disabled_plugins=self.disabled_plugins,
        )

    def _draft_turn(
        self, text: str, plugins: TurnPlugins
    ) -> tuple[Conversation, Turn, list[Passage]]:
        """The chat with a turn for `text`, and what is found for it; for a blank text the chat
        with its newest turn."""
        if not text.strip():
            turn = self._newest_turn()
            return self.store.conversation(self._stored_id), turn, self.store.passages(turn.id)
        chat = self._conversation_or_new()
        message = request_builder.message_from_input(chat, text, plugins)
        typed = text if message != text else ""
        turn = Turn(0, len(chat.turns), Message("user", message), raw_input=typed)
        chat = dataclasses.replace(chat, turns=(*chat.turns, turn))
        return chat, turn, request_builder.retrieve_passages(chat, turn, plugins)

    def _newest_turn(self) -> Turn:
        conversation = self.conversation
        if conversation is None or not conversation.turns:
            raise UsageError("This chat has no message yet", hint="Type one first.")
        return conversation.turns[-1]

    @property
    def _stored_id(self) -> int:
        if self.conversation_id is None:
            raise UsageError("This chat has no message yet", hint="Type one first.")
        return self.conversation_id

    def _turn_plugins(self) -> TurnPlugins:
        """The plugins for a turn of the chat as it is now."""
        return TurnPlugins(self.plugins, self._conversation_or_new().disabled_plugins)

    def _runner(self, plugins: TurnPlugins) -> TurnRunner:
        return TurnRunner(
            self.store,
            self.get_engine,
            plugins,
            self._effective_sampling,
            self._stored_id,
            self.adapter,
            self.logprobs,
        )

    def _effective_sampling(self, conversation: Conversation) -> Sampling:
        return self.session_sampling.with_fallback(conversation.sampling).with_fallback(
            self.sampling
        )


def _check_not_blank(text: str) -> None:
    if not text.strip():
        raise UsageError("There is nothing to send", hint="Type a message first.")
