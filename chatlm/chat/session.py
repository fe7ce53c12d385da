"""Session of one chat: send, edit, regenerate, continue, preview and summarise."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

from chatlm.chat import request_builder
from chatlm.chat import summary as summary_module
from chatlm.chat.compaction import compact_turns
from chatlm.chat.context_usage import ContextUsage, measure_context
from chatlm.chat.deletion import delete_chats
from chatlm.chat.images import kept_images, message_parts, with_unsaved
from chatlm.chat.tool_loop import retrieved_only
from chatlm.chat.tool_set import ToolOptions, ToolSet, find_tools
from chatlm.chat.turn_runner import SessionEvents, TurnRunner
from chatlm.errors import ChatlmError, ContextTooLong, StoreError, UsageError
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.turn_plugins import TurnPlugins
from chatlm.store.store import Store
from chatlm.types.conversations import (
    ContextPolicy,
    Conversation,
    ConversationHeader,
    PluginData,
    Turn,
)
from chatlm.types.engine import Engine
from chatlm.types.events import Prefill, TurnStarted, TurnWithdrawn
from chatlm.types.messages import Message, Passage
from chatlm.types.parts import Image, PreparedImage, Text
from chatlm.types.projects import Project
from chatlm.types.replies import Reply, ReplyStep, StopReason
from chatlm.types.requests import Prompt, Request, ToolDefinition
from chatlm.types.sampling import Sampling
from chatlm.types.tool_rules import ChatTools

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preview:
    """A request that was built but not sent."""

    request: Request
    prompt: Prompt
    passages: tuple[Passage, ...]
    """The passages retrieved for the message."""


class ChatSession:
    """One chat; `send`, `edit`, `regenerate` and `continue_reply` return generators of events.

    Closing a generator cancels the turn: the reply so far is saved with stop reason `cancelled`.
    Everything is stored before it is reported.

    Args:
        store: where the chat is stored; in memory for an incognito chat.
        get_engine: returns the loaded engine; may wait for it, and is called only after the
            user's message is stored.
        plugins: the plugins whose hooks are called.
        sampling: the user's settings for all chats, for what neither the chat nor a plugin, such
            as a template, sets; what they leave open is the model's default.
        session_sampling: settings of this session only; they take priority over the chat's, which
            take priority over `sampling`.
        system: the system prompt of a new conversation.
        chat_sampling: the user's settings for a new conversation.
        adapter: the adapter for this session, whatever plugins choose; "" for none, None leaves
            the choice to plugins.
        logprobs: as `Request.logprobs`; only in the events, never stored.
        plugin_data: what plugins store with a new conversation.
        disabled_plugins: plugins that are disabled in a new conversation.
        conversation_id: the conversation to continue; None starts one with the first message.
        label_seconds: how long plugins may take after a reply; None waits for them.
        tools: what the session does about tools, whatever the chat says.
        chat_tools: what the user decided about tools in a new conversation.
        source: what begins a new conversation, such as `ask`; empty for the screen.
        project: the project that a new conversation belongs to.
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
        label_seconds: float | None = None,
        source: str = "",
        project: Project | None = None,
        tools: ToolOptions | None = None,
        chat_tools: ChatTools | None = None,
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
        self._draft: Conversation | None = None
        """The chat with what `add` added."""
        self._draft_images: list[PreparedImage] = []
        """The images of what `add` added."""
        self.label_seconds = label_seconds
        self.source = source
        self.project = project
        self.tools = tools or ToolOptions()
        self.chat_tools = chat_tools or ChatTools()

    @property
    def conversation(self) -> Conversation | None:
        """The conversation, loaded from the store; None before the first message."""
        if self.conversation_id is None:
            return None
        return self.store.conversation(self.conversation_id)

    @property
    def so_far(self) -> Conversation:
        """The conversation with what `add` added; a new one before the first message."""
        return self._conversation_or_new()

    def send(self, text: str, images: Sequence[PreparedImage] = ()) -> SessionEvents:
        """Store the user's message as it was typed, let plugins rewrite it, then answer it.

        Args:
            text: the message.
            images: what goes before its text.

        Raises:
            UsageError: the text is blank, or a plugin refuses it; it is not stored any longer.
            StoreError: the message could not be stored; nothing was changed.
            EngineError: the generation failed; the message and the reply so far are stored.
        """
        _check_not_blank(text)
        previous = self.conversation_id
        yield from self._answer_new_turn(self._store_message(text, images=images), previous)

    def edit(self, position: int, text: str, images: Sequence[PreparedImage] = ()) -> SessionEvents:
        """Replace an earlier message and answer it, in a fork of the chat.

        The session continues in the fork; the original does not change. The images of the message
        stay, save those whose names are no longer in its text.

        Args:
            position: the turn whose message is replaced, 0 for the first.
            text: the new message.
            images: what is added to its images.

        Raises:
            UsageError: the text is blank, a plugin refuses it, or the turn does not exist; the
                session stays in the original.
            StoreError: the fork or the message could not be stored; nothing was changed.
            EngineError: the generation failed; the message and the reply so far are stored.
        """
        _check_not_blank(text)
        original = self._stored()
        turns = len(original.turns)
        if not 0 <= position < turns:
            raise UsageError(
                f"There is no message {position + 1} in this chat", hint=f"It has {turns}."
            )
        kept = kept_images(original.turns[position].user, text)
        fork = self.store.fork(original.id, position)
        yield from self._answer_new_turn(
            self._add_first_turn(fork, text, images, kept), original.id
        )

    def regenerate(self) -> SessionEvents:
        """Answer the newest turn again; earlier replies stay as its versions.

        A model that is greedy by default would repeat itself, so it samples here, unless the user
        set the temperature.

        Raises:
            UsageError: the turn has no reply yet, and a plugin refuses its message.
        """
        chat = self._stored()
        turn, plugins = chat.turns[-1], self._turn_plugins(chat)
        if not turn.replies:
            return self._answer_unanswered(chat, plugins)
        return self._runner(plugins).answer(chat, turn, regenerate=True)

    def continue_reply(self) -> SessionEvents:
        """Continue the newest reply from its end.

        Raises:
            UsageError: the reply cannot be continued; or there is none, and a plugin refuses the
                message.
        """
        chat = self._stored()
        turn, plugins = chat.turns[-1], self._turn_plugins(chat)
        if turn.reply is None:
            return self._answer_unanswered(chat, plugins)
        reason = turn.reply.stop_reason
        if reason is not None and not reason.can_continue:
            raise UsageError(
                "The last reply is complete"
                if reason is StopReason.END
                else f"The last reply cannot be continued: {reason.label}",
                hint="Regenerate it, or ask for more in a message.",
            )
        return self._runner(plugins).answer(chat, turn, turn.reply)

    def add(
        self,
        text: str,
        reply: str | Sequence[ReplyStep],
        images: Sequence[PreparedImage] = (),
    ) -> None:
        """Add a message with a reply that was generated elsewhere to what `request` builds on.

        Nothing is stored, since a long chat would take thousands of statements.

        Args:
            text: the user's message.
            reply: the answer, or all steps to it.
            images: the message's images.

        Raises:
            UsageError: the text is blank, or a plugin refuses it.
        """
        if not images:
            _check_not_blank(text)
        chat = self._conversation_or_new()
        turn = self._drafted_turn(chat, text, self._turn_plugins(chat), images)
        self._draft_images += images
        if isinstance(reply, str):
            reply = [ReplyStep((Text(reply),) if reply else (), StopReason.END)]
        answered = dataclasses.replace(turn, replies=(Reply(0, 1, steps=reply),))
        self._draft = _appended(chat, answered)

    def read_ahead(
        self, conversation: Conversation | None = None
    ) -> Generator[Prefill, None, None]:
        """Prefill the prompt of the chat so far while the user reads and types.

        Pull it while idle and close it otherwise; nothing is stored.

        Args:
            conversation: the chat, such as `TurnFinished` gives it; None loads it.
        """
        conversation = conversation or self.conversation
        if conversation is None or not conversation.turns:
            return
        engine = self.get_engine()
        last = conversation.turns[-1].reply
        adapter = last.adapter if last else None
        request = Request(
            conversation.messages(),
            self._effective_sampling(conversation),
            adapter,
            cache_folder=self.store.cache_folder(conversation.id),
            images=self.store.images,
            tools=self._tool_definitions(conversation, engine),
        )
        with closing(engine.read_ahead(request)) as events:
            yield from events

    def compact(
        self, conversation: Conversation | None = None
    ) -> Generator[Turn | None, None, None]:
        """Let the model summarise the turns that are left out of the prompt, see `compact_turns`.

        Pull it while idle and close it otherwise.

        Args:
            conversation: the chat, such as `TurnFinished` gives it; None loads it.
        """
        chat = conversation or self.conversation
        if chat is not None and chat.turns:
            usage = self.context_usage(chat)
            with closing(compact_turns(chat, usage, self.get_engine(), self.store)) as steps:
                yield from steps

    def preview(
        self, text: str, reply: Sequence[ReplyStep] = (), images: Sequence[PreparedImage] = ()
    ) -> Preview:
        """Build what `send` would send for `text`; nothing is stored.

        A blank text previews the newest turn.

        Args:
            text: the user's message.
            reply: what its reply has already: steps with results of tools, or text to continue.
            images: the message's images.

        Raises:
            UsageError: the text is blank and the chat has no turn.
            ContextTooLong, ModelError: as `send`.
        """
        request, passages, encode = self._build(text, reply, images)
        return Preview(request, encode(), tuple(passages))

    def request(
        self, text: str, reply: Sequence[ReplyStep] = (), images: Sequence[PreparedImage] = ()
    ) -> Request:
        """Build what `send` would send for `text`, and encode it only if it has passages.

        Args:
            text: the user's message.
            reply: what its reply has already: steps with results of tools, or text to continue.
            images: the message's images.

        Raises:
            UsageError: the text is blank and the chat has no turn.
            ContextTooLong: the passages do not fit; the engine refuses other prompts that do not.
            ModelError: as `send`.
        """
        request, passages, encode = self._build(text, reply, images)
        if passages:
            encode()
        return request

    def draft(self, text: str, images: Sequence[PreparedImage] = ()) -> Request:
        """Build the request for `text` as far as possible without the model; nothing is stored.

        Plugins' adjustments and the model's default settings are missing.

        Args:
            text: the user's message.
            images: the message's images.

        Raises:
            UsageError: the text is blank and the chat has no turn.
        """
        chat, plugins, passages = self._draft_turn(text, images)
        messages = request_builder.build_messages(chat, chat.turns[-1], passages, plugins)
        tools: tuple[ToolDefinition, ...] = ()
        if self.tools.may_offer(chat.tools):
            tools = ToolSet(find_tools(plugins, self.tools.added), self.tools, chat).definitions
        return Request(
            tuple(messages),
            self._effective_sampling(chat),
            tools=tools,
            images=request_builder.with_contents(
                with_unsaved(self.store.images, [*self._draft_images, *images]), passages
            ),
        )

    def context_usage(self, conversation: Conversation | None = None) -> ContextUsage:
        """Measure how much of the context window each turn takes, without plugins.

        Args:
            conversation: the chat, such as `TurnFinished` gives it; None loads it.
        """
        chat = conversation or self._conversation_or_new()
        engine = self.get_engine()
        tools = self._tool_definitions(chat, engine)
        return measure_context(chat, engine, self._effective_sampling(chat), tools)

    def summarise(self, turn_id: int) -> Generator[str, None, None]:
        """Let the model summarise a turn; at the end the summary replaces the turn in the prompt.

        Closing the generator early changes nothing.

        Raises:
            UsageError: the turn has no reply.
            EngineError: the generation failed, or the summary is empty.
            StoreError: the turn was not found, or the summary could not be stored.
        """
        summary = ""
        with closing(
            summary_module.summarise_turn(self.get_engine(), self.store.turn(turn_id))
        ) as pieces:
            for piece in pieces:
                summary += piece
                yield piece
        self.store.set_context_policy(turn_id, ContextPolicy.SUMMARISED, summary.strip())

    def _answer_new_turn(self, chat: Conversation, previous_id: int | None) -> SessionEvents:
        """Answer a message that was just stored as it was typed.

        Args:
            chat: the chat, which ends with the turn.
            previous_id: the chat to go back to if a plugin refuses the message.
        """
        turn, plugins = chat.turns[-1], self._turn_plugins(chat)
        yield TurnStarted(chat, turn)
        try:
            written = self._rewrite_message(chat, plugins)
        except UsageError:
            if self._withdraw(chat, previous_id):
                yield TurnWithdrawn(turn, previous_id)
            raise
        yield from self._runner(plugins).run(chat.with_turn(written), written)

    def _answer_unanswered(self, chat: Conversation, plugins: TurnPlugins) -> SessionEvents:
        """Answer a turn without replies, whose preparation may have been interrupted."""
        turn = self._rewrite_message(chat, plugins)
        yield from self._runner(plugins).run(chat.with_turn(turn), turn)

    def _store_message(
        self,
        text: str,
        images: Sequence[PreparedImage] = (),
    ) -> Conversation:
        """Store the message as it was typed; a new chat is stored with it, or not at all.

        Args:
            text: the message.
            images: the message's images.

        Returns:
            the chat, which ends with the turn.
        """
        if self.conversation_id is not None:
            chat = self.store.conversation(self.conversation_id)
            return chat.with_turn(self._add_turn(chat, text, images))
        new = self._conversation_or_new()
        fresh = self.store.create_conversation(
            system=new.system,
            sampling=new.sampling,
            plugin_data=new.plugin_data,
            disabled_plugins=new.disabled_plugins,
            source=self.source,
            project=new.project,
            tools=new.tools,
        )
        return self._add_first_turn(fresh, text, images)

    def _add_first_turn(
        self,
        fresh: Conversation,
        text: str,
        images: Sequence[PreparedImage],
        kept: Sequence[Image] = (),
    ) -> Conversation:
        """Store the message in a chat created for it, in which the session continues."""
        try:
            turn = self._add_turn(fresh, text, images, kept)
        except ChatlmError:
            with suppress(StoreError):
                self._discard(fresh.id)
            raise
        self.conversation_id = fresh.id
        return fresh.with_turn(turn)

    def _add_turn(
        self,
        chat: Conversation,
        text: str,
        images: Sequence[PreparedImage],
        kept: Sequence[Image] = (),
    ) -> Turn:
        # what is marked as raw is written once more, so not without need
        raw = bool(self._turn_plugins(chat).implementations("write_message"))
        parts = message_parts(text, images, kept)
        blobs = [image.content for image in images]
        return self.store.add_turn(chat.id, parts, text if raw else "", blobs)

    def _rewrite_message(self, chat: Conversation, plugins: TurnPlugins) -> Turn:
        """Let plugins rewrite the message of the last turn if they have not, and store it.

        Raises:
            UsageError: a plugin refuses the message.
        """
        turn = chat.turns[-1]
        if not turn.is_raw:
            return turn
        before = dataclasses.replace(chat, turns=chat.turns[:-1])
        message = request_builder.message_from_input(before, turn.raw_input, plugins)
        raw_input = turn.raw_input if message != turn.raw_input else ""
        return self.store.rewrite_message(turn.id, turn.user.with_text(message).parts, raw_input)

    def _withdraw(self, chat: Conversation, previous_id: int | None) -> bool:
        """Remove a refused message, and the chat that was created for it.

        Returns:
            whether it could be removed; otherwise it stays, without a reply.
        """
        try:
            if chat.id == previous_id:
                self.store.remove_turn(chat.turns[-1].id)
            else:
                self._discard(chat.id)
        except StoreError as error:
            log.error("refused message not removed: %s", error)
            return False
        self.conversation_id = previous_id
        return True

    def _discard(self, conversation_id: int) -> None:
        """Delete a chat that was created for a message which is not stored."""
        delete_chats(self.store, [conversation_id], self.plugins)

    def _conversation_or_new(self) -> Conversation:
        return (
            self._draft
            or self.conversation
            or Conversation(
                self.store.first_id,
                system=self.system,
                sampling=self.chat_sampling,
                plugin_data=self.plugin_data,
                disabled_plugins=self.disabled_plugins,
                project=self.project,
                tools=self.chat_tools,
            )
        )

    def _build(
        self, text: str, reply: Sequence[ReplyStep], images: Sequence[PreparedImage] = ()
    ) -> tuple[Request, Sequence[Passage], Callable[[], Prompt]]:
        """Return the request for a message, the passages for it, and what encodes its prompt."""
        engine = self.get_engine()
        chat, plugins, passages = self._draft_turn(text, images)
        turn = chat.turns[-1]
        request = request_builder.build_request(
            chat,
            turn,
            passages,
            engine=engine,
            plugins=plugins,
            sampling=self._chat_sampling(chat),
            config_sampling=self.sampling,
            adapter=self.adapter,
            continue_from=Reply(0, 1, steps=reply) if reply else None,
            tools=self._tool_definitions(chat, engine),
            tool_choice=self.tools.choice,
            images=with_unsaved(self.store.images, [*self._draft_images, *images]),
        )

        def encode() -> Prompt:
            try:
                return engine.preview(request)
            except ContextTooLong as error:
                raise request_builder.explain_overflow(
                    error, request, chat, turn, passages, plugins.take_calls(), engine
                ) from error

        return request, passages, encode

    def _draft_turn(
        self, text: str, images: Sequence[PreparedImage] = ()
    ) -> tuple[Conversation, TurnPlugins, list[Passage]]:
        """Return the chat with a turn for `text`, or with its newest turn if `text` is blank, the
        plugins for it, and the turn's passages."""
        if not text.strip() and not images:
            chat = self._stored()
            passages = retrieved_only(self.store.passages(chat.turns[-1].id))
            return chat, self._turn_plugins(chat), passages
        chat = self._conversation_or_new()
        plugins = self._turn_plugins(chat)
        turn = self._drafted_turn(chat, text, plugins, images)
        chat = _appended(chat, turn)
        return chat, plugins, request_builder.retrieve_passages(chat, turn, plugins)

    def _drafted_turn(
        self,
        chat: Conversation,
        text: str,
        plugins: TurnPlugins,
        images: Sequence[PreparedImage] = (),
    ) -> Turn:
        """Return the next turn of a chat, which is not stored."""
        message = request_builder.message_from_input(chat, text, plugins)
        raw_input = text if message != text else ""
        number = len(chat.turns)
        turn_id = self.store.first_id and self.store.first_id + number  # as it would be stored
        user = Message("user", message_parts(text, images))
        if message != text:
            user = user.with_text(message)
        return Turn(turn_id, number, user, raw_input=raw_input)

    def _stored(self) -> Conversation:
        """Load the chat, which must have a turn."""
        conversation = self.conversation
        if conversation is None or not conversation.turns:
            raise UsageError("This chat has no message yet", hint="Type one first.")
        return conversation

    def _tool_definitions(
        self, chat: ConversationHeader, engine: Engine
    ) -> tuple[ToolDefinition, ...]:
        """Return the tools offered to the model."""
        if not self.tools.may_offer(chat.tools) or "tool_call" not in engine.info.accepts:
            return ()
        found = find_tools(self._turn_plugins(chat), self.tools.added)
        return ToolSet(found, self.tools, chat).definitions

    def _turn_plugins(self, conversation: ConversationHeader) -> TurnPlugins:
        return TurnPlugins(self.plugins, conversation.disabled_plugins)

    def _runner(self, plugins: TurnPlugins) -> TurnRunner:
        return TurnRunner(
            self.store,
            self.get_engine,
            plugins,
            self._chat_sampling,
            self.sampling,
            self.adapter,
            self.logprobs,
            self.label_seconds,
            self.tools,
        )

    def _chat_sampling(self, conversation: ConversationHeader) -> Sampling:
        return self.session_sampling.with_fallback(conversation.sampling)

    def _effective_sampling(self, conversation: ConversationHeader) -> Sampling:
        return self._chat_sampling(conversation).with_fallback(self.sampling)


def _appended(chat: Conversation, turn: Turn) -> Conversation:
    return dataclasses.replace(chat, turns=(*chat.turns, turn))


def _check_not_blank(text: str) -> None:
    if not text.strip():
        raise UsageError("There is nothing to send", hint="Type a message first.")
