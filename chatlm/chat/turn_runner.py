"""Runner of one turn, from the stored message to the stored reply."""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from chatlm.chat import request_builder
from chatlm.chat.reply_methods import CollectsOffers, stream_request
from chatlm.chat.reply_writer import ReplyWriter
from chatlm.chat.tool_loop import ToolLoop, retrieved_only
from chatlm.chat.tool_set import ToolOptions, ToolSet, check_names, find_tools
from chatlm.chat.vision import check_images
from chatlm.errors import ChatlmError, ContextTooLong, EngineError, StoreError
from chatlm.plugin_host.turn_plugins import TurnPlugins
from chatlm.store.store import Store
from chatlm.types.conversations import Conversation, ConversationHeader, Turn
from chatlm.types.engine import Engine, check_parts, thinking_problem
from chatlm.types.events import (
    Delta,
    EngineEvent,
    Finished,
    MessageAnnotated,
    MessageRewritten,
    Notice,
    PassagesFound,
    PromptReady,
    ReplyStarted,
    SessionEvent,
    StepStarted,
    TurnFinished,
)
from chatlm.types.messages import Annotation, Message, Passage
from chatlm.types.parts import ToolResult
from chatlm.types.provenance import Trace
from chatlm.types.replies import PLUGIN_MODEL_PREFIX, Reply, StopReason, Usage
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling

log = logging.getLogger(__name__)


CONTEXT_FULL = "context full"
"""Topic of the notice that turns do not fit."""


THINKING = "thinking"
"""Topic of the notice that the model does not follow the setting."""


TOOLS = "tools"
"""Topic of the notice that the model cannot call any."""


SessionEvents = Generator[SessionEvent, None, None]


@dataclass(frozen=True)
class TurnRunner:
    """Answers turns of a chat; closing a generator cancels the reply and saves what there is."""

    store: Store
    get_engine: Callable[[], Engine]
    """Returns the loaded engine; may wait for it."""
    plugins: TurnPlugins
    """The plugins that are enabled for the turn."""
    sampling_for: Callable[[ConversationHeader], Sampling]
    """Returns the user's settings for the chat."""
    config_sampling: Sampling
    """The user's settings for all chats."""
    adapter: str | None = None
    """Overrides the plugins' choice; "" for none."""
    logprobs: int | None = None
    """As `Request.logprobs`."""
    label_seconds: float | None = None
    """How long plugins may take after the reply; None waits for them."""
    tools: ToolOptions = field(default_factory=ToolOptions)
    """What is done about tools, whatever the chat says."""

    def run(self, conversation: Conversation, turn: Turn) -> SessionEvents:
        """Label a stored message, retrieve passages for it and answer it.

        Args:
            conversation: the chat, with the turn.
            turn: the turn without a reply.
        """
        try:
            if turn.is_rewritten:
                yield MessageRewritten(turn)
            labels = self._annotate(conversation, turn, None, turn.user, ())
            if labels:
                turn = self.store.turn(turn.id)
                conversation = conversation.with_turn(turn)
                yield MessageAnnotated("user", labels)
            yield from self._fault_notices()
            passages = request_builder.retrieve_passages(conversation, turn, self.plugins)
            if passages:
                self.store.save_passages(turn.id, passages)
                turn = self.store.turn(turn.id)
                conversation = conversation.with_turn(turn)
                yield PassagesFound(tuple(passages))
        finally:
            problem = self._save_trace(turn, None)
        if problem is not None:
            yield problem
        yield from self._fault_notices()
        yield from self.answer(conversation, turn)

    def answer(
        self,
        conversation: Conversation,
        turn: Turn,
        reply: Reply | None = None,
        *,
        regenerate: bool = False,
    ) -> SessionEvents:
        """Generate a reply.

        Args:
            conversation: the chat, with the turn.
            turn: the turn to answer.
            reply: the reply to continue; None for a new one.
            regenerate: whether the turn has another reply already.
        """
        engine = self.get_engine()
        # loading the engine can take minutes, in which the user may change the chat's settings
        conversation = self._with_new_header(conversation)
        tools = self._tools(conversation, engine)
        loop = ToolLoop(self.store, self.plugins, tools, conversation, turn)
        if tools.options.may_offer(conversation.tools) and "tool_call" not in engine.info.accepts:
            yield Notice(f"{engine.info.model} cannot call tools, so it has none here.", TOOLS)
        resumed = reply is not None and bool(tools.offered and reply.steps[-1].unanswered_calls)
        if reply is not None and resumed:
            yield ReplyStarted(turn.id, reply)
            try:
                yield from loop.run(reply)
            finally:
                if loop.was_stopped:
                    self._finish_silently(conversation, turn, reply.id)
            reply = loop.reply
        request = request_builder.build_request(
            conversation,
            turn,
            retrieved_only(self.store.passages(turn.id)),
            engine=engine,
            plugins=self.plugins,
            sampling=self.sampling_for(conversation),
            config_sampling=self.config_sampling,
            adapter=self._adapter(reply, engine),
            logprobs=self.logprobs,
            continue_from=reply,
            regenerate=regenerate,
            tools=tools.definitions,
            tool_choice=tools.options.choice,
            images=self.store.images,
        )
        cache_folder = self.store.cache_folder(conversation.id)
        request = dataclasses.replace(request, cache_folder=cache_folder)
        if request.sampling.seed is None:
            sampling = dataclasses.replace(request.sampling, seed=secrets.randbelow(2**31))
            request = dataclasses.replace(request, sampling=sampling)
        yield from self._fault_notices()
        if ignored := thinking_problem(request.sampling.thinking, engine.info):
            yield Notice(str(ignored), THINKING)
        settings = json.dumps(request.sampling.to_dict())
        if reply is None:
            reply = self.store.start_reply(
                turn.id,
                model=PLUGIN_MODEL_PREFIX + self.plugins.completed_by
                if request.reply_complete
                else engine.info.model,
                adapter=None if request.reply_complete else request.adapter,
                settings=settings,
            )
        else:
            self.store.journal_reply(reply.id, reply.steps)
        first_step = len(reply.steps) - (not reply.steps[-1].has_tool_results)
        opening = request.messages
        if opening[-1].role == "assistant":  # the step so far, or its beginning by a plugin
            opening = opening[:-1]
        tool_choice = request.tool_choice
        complete = False
        growing = ReplyWriter(self.store, reply, settings)
        try:
            yield StepStarted(reply) if resumed else ReplyStarted(turn.id, reply)
            while True:
                yield from self._stream_step(
                    conversation,
                    turn,
                    engine,
                    request,
                    growing,
                    tool_choice=tool_choice,
                    continued=bool(reply.parts),
                )
                reply = growing.reply
                if not self._calls_tools(reply, tools, request):
                    break
                loop.count_output(reply.steps[-1].usage)
                yield from loop.run(reply)
                reply, tools = loop.reply, loop.tools
                if limit := loop.limit():
                    yield from self._stop_at_limit(reply, limit)
                    break
                results = request_builder.describe_old_parts(loop.messages(first_step), engine.info)
                messages = (*opening, *results)
                request = dataclasses.replace(request, messages=messages, tool_choice="auto")
                growing = ReplyWriter(self.store, reply, settings)
                yield StepStarted(reply)
            complete = growing.finished
        finally:
            growing.close()
            if not complete:
                self._finish_silently(conversation, turn, reply.id)
        yield from self._finish(conversation, turn, reply.id)

    def _stream_step(
        self,
        conversation: Conversation,
        turn: Turn,
        engine: Engine,
        request: Request,
        growing: ReplyWriter,
        *,
        tool_choice: str,
        continued: bool,
    ) -> SessionEvents:
        """Let the model write one step of a reply.

        Args:
            conversation: the chat, with the turn.
            turn: the turn to answer.
            engine: runs the request.
            request: of this step.
            growing: stores it.
            tool_choice: of the reply's first step.
            continued: whether the reply has any text or calls already.
        """
        if request.reply_complete:
            growing.provenance = request_builder.engineless_provenance(request)
        try:
            with closing(
                reply_events(engine, request, self.plugins, continued=continued)
            ) as events:
                for event in events:
                    problem = growing.add(event) if isinstance(event, Delta | Finished) else None
                    if problem is not None:
                        yield Notice(problem)
                    if isinstance(event, PromptReady):
                        made_by = request_builder.provenance(request, engine.info, event)
                        # of the first step, since later ones are free to call tools
                        growing.provenance = dataclasses.replace(made_by, tool_choice=tool_choice)
                        if event.omitted_messages:
                            yield Notice(_describe_omission(event), CONTEXT_FULL)
                    yield from self._fault_notices()
                    yield event
        except ContextTooLong as error:
            calls = (call for trace in self.store.traces(turn.id) for call in trace.calls)
            passages = retrieved_only(self.store.passages(turn.id))
            explained = request_builder.explain_overflow(
                error, request, conversation, turn, passages, calls, engine
            )
            growing.fail(explained)
            raise explained from error
        except ChatlmError as error:
            growing.fail(error)
            raise
        except Exception as error:  # the model itself broke, or a plugin's engine
            log.exception("generation failed")
            failure = EngineError(
                f"The reply failed: {type(error).__name__}: {error}",
                hint="The reply so far is saved. `chatlm logs` has the details.",
            )
            growing.fail(failure)
            raise failure from error
        finally:
            growing.close()

    def _tools(self, conversation: ConversationHeader, engine: Engine) -> ToolSet:
        """Return the tools of the chat; none that a model without tools would need.

        Raises:
            UsageError: the session names a tool that does not exist.
        """
        wanted = self.tools.may_offer(conversation.tools)
        can_call = "tool_call" in engine.info.accepts or self.tools.names is not None
        tools = find_tools(self.plugins, self.tools.added) if wanted and can_call else {}
        if self.tools.names is not None:
            check_names(self.tools.names, tools)
        return ToolSet(tools, self.tools, conversation)

    def _calls_tools(self, reply: Reply, tools: ToolSet, request: Request) -> bool:
        """Whether a reply goes on with calls that are run here.

        Calls of tools that a plugin added to the request are left to it.
        """
        last = reply.steps[-1]
        if last.stop_reason is not StopReason.TOOL_CALLS or not tools.offered:
            return False
        others = {tool.name for tool in request.tools} - tools.offered.keys()
        return not any(call.name in others for call in last.unanswered_calls)

    def _stop_at_limit(self, reply: Reply, limit: str) -> SessionEvents:
        """Store that a limit ended the reply, and say so."""
        ended = reply.with_stop_reason(StopReason.TOOL_LIMIT)
        try:
            self.store.finish_reply(ended.id, steps=ended.steps)
        except StoreError as error:
            yield Notice(f"The reply is not being saved. {error}")
        yield Notice(f"The reply was stopped after {limit} with tools; it can be continued.")
        yield Finished(StopReason.TOOL_LIMIT, ended.steps[-1].usage)

    def _adapter(self, reply: Reply | None, engine: Engine) -> str | None:
        """Return the adapter to request; a reply is continued with the adapter that started it."""
        if reply is None or reply.model != engine.info.model:
            return self.adapter
        return reply.adapter or ""

    def _finish(
        self, conversation: Conversation, turn: Turn, reply_id: int
    ) -> Iterator[SessionEvent]:
        """Label the stored reply, call `turn_finished`, and save the trace."""
        turn = self.store.turn(turn.id)
        conversation = self._with_new_header(conversation).with_turn(turn)
        with self.plugins.limited(self.label_seconds):
            if turn.reply is not None and turn.reply.text:
                output = [part for part in turn.reply.parts if not isinstance(part, ToolResult)]
                message = Message("assistant", output)
                passages = self.store.passages(turn.id)
                labels = self._annotate(conversation, turn, turn.reply.id, message, passages)
                if labels:
                    yield MessageAnnotated("assistant", labels)
                    turn = self.store.turn(turn.id)
                    conversation = conversation.with_turn(turn)
            late: list[Annotation] = self.plugins.call_hook(
                "turn_finished", conversation=conversation, turn=turn
            )
        if late:
            self.store.annotate(turn.id, None, late)
            turn = self.store.turn(turn.id)
        problem = self._save_trace(turn, reply_id)
        if problem is not None:
            yield problem
        yield from self._fault_notices()
        yield TurnFinished(turn, conversation.with_turn(turn))

    def _finish_silently(self, conversation: Conversation, turn: Turn, reply_id: int) -> None:
        """Finish a reply that was cancelled or failed, when nobody pulls events any longer."""
        try:
            for _ in self._finish(conversation, turn, reply_id):
                pass
        except ChatlmError as error:
            log.error("turn not finished: %s", error)

    def _annotate(
        self,
        conversation: Conversation,
        turn: Turn,
        reply_id: int | None,
        message: Message,
        passages: Sequence[Passage],
    ) -> tuple[Annotation, ...]:
        labels: list[Annotation] = self.plugins.call_hook(
            "annotate_message", conversation=conversation, message=message, passages=passages
        )
        if labels:
            self.store.annotate(turn.id, reply_id, labels)
        return tuple(labels)

    def _save_trace(self, turn: Turn, reply_id: int | None) -> Notice | None:
        """Save the plugin calls since the last time; returns a notice if that fails."""
        calls = self.plugins.take_calls()
        try:
            if calls:
                self.store.save_trace(turn.id, Trace(calls, reply_id))
        except StoreError as error:
            log.error("trace not saved: %s", error)
            return Notice(f"What plugins did for this turn is not kept. {error}")
        return None

    def _fault_notices(self) -> Iterator[Notice]:
        for fault in self.plugins.take_faults():
            yield Notice(str(fault))

    def _with_new_header(self, conversation: Conversation) -> Conversation:
        return conversation.with_header(self.store.header(conversation.id))


def reply_events(
    engine: Engine, request: Request, plugins: CollectsOffers, *, continued: bool = False
) -> Generator[EngineEvent, None, None]:
    """Yield the beginning that plugins gave a new reply, then the engine's events, if it is run.

    Args:
        engine: runs the request.
        request: with the plugins' adjustments.
        plugins: offer the method that the request may name.
        continued: whether an earlier reply is continued.
    """
    yield from events_without_engine(request, engine, continued=continued)
    if not request.reply_complete:
        check_images((part for each in request.messages for part in each.parts), engine.info)
        check_parts(request, engine.info)
        yield from stream_request(engine, request, plugins)


def events_without_engine(
    request: Request, engine: Engine, *, continued: bool = False
) -> Iterator[EngineEvent]:
    """Yield the beginning that plugins gave a new reply, and `Finished` if that is all of it.

    Args:
        request: with the plugins' adjustments.
        engine: counts the tokens of a complete reply; it does not generate.
        continued: whether an earlier reply is continued.
    """
    usage = _count_reply(request, engine) if request.reply_complete else Usage()
    if not continued and (beginning := request_builder.reply_prefix(request)):
        yield Delta(beginning, "", usage)
    if request.reply_complete:
        yield Finished(request.reply_stop_reason, usage)


def _count_reply(request: Request, engine: Engine) -> Usage:
    """Return the usage of a complete reply: its tokens, and none of a prompt that nobody read."""
    last = len(request.messages) - 1
    try:
        tokens = engine.preview(request).tokens
    except Exception as error:  # it may not fit the context, which need not fail the reply
        log.info("the tokens of a plugin's reply are not known: %s", error)
        return Usage()
    return Usage(completion_tokens=sum(t.message_index == last and not t.control for t in tokens))


def _describe_omission(event: PromptReady) -> str:
    count = sum(message.role == "user" for message in event.omitted_messages)
    turns = "the oldest turn" if count == 1 else f"the {count} oldest turns"
    return f"Context full ({event.context_length} tokens): {turns} of this chat did not fit."
