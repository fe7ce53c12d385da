"""Answer the requests of a file together, each in a chat of its own that is not saved."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import secrets
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from chatlm.chat.deletion import open_memory_store
from chatlm.chat.request_lines import FileRequest
from chatlm.chat.session import ChatSession
from chatlm.chat.side_chats import InMemorySideChats
from chatlm.chat.templates import render_chat_start
from chatlm.chat.turn_runner import events_without_engine
from chatlm.chat.vision import check_images
from chatlm.errors import ChatlmError, ContextTooLong, EngineError, UsageError
from chatlm.types.conversations import PluginData
from chatlm.types.engine import Batch, Engine, check_parts, thinking_problem
from chatlm.types.events import Delta, EngineEvent, Finished, PromptReady, TokenLogprob
from chatlm.types.parts import ToolCall
from chatlm.types.replies import StopReason, Usage
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from chatlm.types.schemas import SchemaMismatch, parse_reply, parse_schema

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommonSettings:
    """What all requests of a file have in common, unless a request says otherwise."""

    model: str
    model_fixed: bool = False
    """Whether it answers requests that name another model, too."""
    adapter: str | None = None
    """Empty for none; None leaves it to plugins."""
    system: str | None = None
    """The system prompt that goes before a template's; None for none."""
    default_system: str = ""
    """The system prompt where neither the request nor a template has one."""
    template: str = ""
    values: tuple[tuple[str, str], ...] = ()
    """The template's variables."""
    sampling: Sampling = field(default_factory=Sampling)
    """Goes before a template's."""
    default_sampling: Sampling = field(default_factory=Sampling)
    """For what neither the request nor a template sets."""
    plugin_data: PluginData = field(default_factory=dict)
    logprobs: int | None = None

    def digest(self, request: FileRequest) -> str:
        """Return what identifies a request and everything it is asked with: 24 hex digits."""
        values = [
            request.digest,
            self.model,
            self.model_fixed,
            self.adapter,
            self.system,
            self.default_system,
            self.template,
            sorted(self.values),
            self.sampling.to_dict(),
            self.default_sampling.to_dict(),
            {plugin: dict(data) for plugin, data in self.plugin_data.items()},
            self.logprobs,
        ]
        text = json.dumps(values, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def model_of(self, request: FileRequest) -> str:
        """Return the model that answers a request."""
        return self.model if self.model_fixed or not request.model else request.model


@dataclass
class FileAnswer:
    """What came of one request."""

    request: FileRequest
    digest: str
    """See `CommonSettings.digest`."""
    error: ChatlmError | None = None
    """Why there is no answer; then nothing else is of use."""
    text: str = ""
    reasoning: str = ""
    stop_reason: StopReason = StopReason.CANCELLED
    matched_stop: str | None = None
    tool_calls: Sequence[ToolCall] = ()
    usage: Usage = field(default_factory=Usage)
    tokens: list[TokenLogprob] = field(default_factory=list)
    model: str = ""
    weights: str = ""
    adapter: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    notices: list[str] = field(default_factory=list)
    parsed: Any = None
    """The value of an answer that has a schema."""
    misfits: bool = False
    """Whether the answer was to fit a schema and does not: it was cut, or a server ignored it."""

    def add(self, event: EngineEvent) -> None:
        """Add an event of the engine."""
        match event:
            case Delta(text=text, part="text", logprobs=tokens):
                self.text += text
                self.tokens += tokens
            case Delta(text=text):
                self.reasoning += text
            case Finished():
                self.stop_reason, self.usage = event.stop_reason, event.usage
                self.matched_stop, self.tool_calls = event.matched_stop, event.tool_calls
                self._check_schema()

    def _check_schema(self) -> None:
        if not self.sampling.schema or self.stop_reason is StopReason.TOOL_CALLS:
            return
        if self.stop_reason is not StopReason.END:
            self.misfits = True
            return
        try:
            self.parsed = parse_reply(parse_schema(self.sampling.schema), self.text)
        except SchemaMismatch as error:
            self.misfits = True
            self.notices.append(error.message)


class BatchRun:
    """One run over requests of a file.

    Args:
        chats: load the models; their plugins are called for each request.
        common: what the requests have in common.
        at_once: how many are answered at once, at most; each needs memory for its context.
    """

    def __init__(self, chats: InMemorySideChats, common: CommonSettings, at_once: int) -> None:
        self._chats = chats
        self._common = common
        self._at_once = at_once
        self.new_tokens = 0
        """Tokens generated so far."""

    def answers(self, requests: Iterable[FileRequest]) -> Generator[FileAnswer | None, None, None]:
        """Yield each answer as soon as it is complete, and None after a step without one.

        Requests are grouped by model, in the order in which models are named first. Closing the
        generator cancels what is not complete.
        """
        from chatlm.engines.open import check_available

        groups: dict[str, list[FileRequest]] = {}
        for request in requests:
            if request.problem is not None:
                yield self._failed(request, request.problem)
            else:
                groups.setdefault(self._common.model_of(request), []).append(request)
        for model, group in groups.items():
            try:
                if model != self._common.model:  # a file starts no download
                    check_available(model, "", self._chats.plugins)
                engine = self._chats.engine(model)
            except ChatlmError as error:
                for request in group:
                    yield self._failed(request, error)
                continue
            with closing(engine.batch()) as batch:
                yield from self._answer_group(group, engine, batch)

    def _answer_group(
        self, group: Sequence[FileRequest], engine: Engine, batch: Batch
    ) -> Generator[FileAnswer | None, None, None]:
        waiting = iter(group)
        running: dict[int, FileAnswer] = {}
        limit = min(self._at_once, batch.max_concurrency)
        all_started = False
        while True:
            while not all_started and len(running) < limit:
                request = next(waiting, None)
                if request is None:
                    all_started = True
                    break
                answer = FileAnswer(request, self._common.digest(request))
                index = self._start(answer, engine, batch)
                if index is None:
                    yield answer
                else:
                    running[index] = answer
            if not running:
                return
            ended = False
            for index, event in batch.step():
                if index not in running:
                    continue
                answer = running[index]
                if problem := _problem(event):
                    answer.error = problem
                    batch.cancel(index)
                elif not isinstance(event, Exception):
                    answer.add(event)
                    self.new_tokens += isinstance(event, Delta)
                if answer.error or isinstance(event, Finished):
                    del running[index]
                    ended = True
                    yield answer
            if not ended:
                yield None

    def _failed(self, request: FileRequest, error: ChatlmError) -> FileAnswer:
        return FileAnswer(request, self._common.digest(request), error)

    def _start(self, answer: FileAnswer, engine: Engine, batch: Batch) -> int | None:
        """Build an answer's request and add it to the batch; None if there is nothing to run."""
        try:
            request = self._build(answer, engine)
            answer.model, answer.weights = engine.info.model, engine.info.weights
            answer.adapter, answer.sampling = request.adapter, request.sampling
            if ignored := thinking_problem(request.sampling.thinking, engine.info):
                answer.notices.append(str(ignored))
            continued = bool(answer.request.reply)
            for event in events_without_engine(request, engine, continued=continued):
                answer.add(event)
            if request.reply_complete:
                return None
            check_images((part for each in request.messages for part in each.parts), engine.info)
            check_parts(request, engine.info)
            return batch.add(request)
        except ChatlmError as error:
            answer.error = error
        except Exception as error:  # a plugin's engine broke
            answer.error = _unexpected(error)
        return None

    def _build(self, answer: FileAnswer, engine: Engine) -> Request:
        request, common = answer.request, self._common
        opening = render_chat_start(
            common.template, dict(common.values), request.question, self._chats.plugins
        )
        if opening.rendered.tools and not request.tools:
            raise UsageError(
                f"The template {common.template} uses tools, and a batch runs none",
                hint="Offer tools in the request, or use another template.",
            )
        own_systems = (request.system, common.system, opening.rendered.system or None)
        system = next((each for each in own_systems if each is not None), common.default_system)
        adapter = common.adapter if request.adapter is None else request.adapter
        with open_memory_store() as store:
            session = ChatSession(
                store,
                lambda: engine,
                plugins=self._chats.plugins,
                sampling=opening.rendered.sampling.with_fallback(common.default_sampling),
                session_sampling=request.sampling.with_fallback(common.sampling),
                system=system,
                adapter=adapter,
                logprobs=common.logprobs if request.logprobs is None else request.logprobs,
                plugin_data={**opening.plugin_data, **common.plugin_data},
            )
            for message, steps in request.history:
                session.add(message, steps)
            built = session.request(opening.first_message, request.reply)
        sampling = built.sampling
        if sampling.seed is None:
            sampling = dataclasses.replace(sampling, seed=secrets.randbelow(2**31))
        return dataclasses.replace(
            built,
            sampling=sampling,
            logprobs=common.logprobs if request.logprobs is None else request.logprobs,
            max_new_tokens=request.max_new_tokens,
            tools=request.tools,
            tool_choice=request.tool_choice,
            parallel_tool_calls=request.parallel_tool_calls,
        )


def _problem(event: EngineEvent | Exception) -> ChatlmError | None:
    """Return why an event ends its request without an answer; None if it does not."""
    match event:
        case ChatlmError():
            return event
        case Exception():
            return _unexpected(event)
        case PromptReady(omitted_messages=omitted) if omitted:
            return ContextTooLong(
                f"The messages do not fit the context of {event.context_length:,} tokens",
                hint="Remove the oldest messages, or lower max_tokens.",
            )
    return None


def _unexpected(error: Exception) -> ChatlmError:
    log.error("a request failed", exc_info=error)
    return EngineError(
        f"The reply failed: {type(error).__name__}: {error}",
        hint="`chatlm logs` has the details.",
    )
