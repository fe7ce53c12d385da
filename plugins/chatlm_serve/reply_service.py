"""Replies to clients: finds the model, builds its request, and queues it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from chatlm import (
    ContextTooLong,
    Delta,
    EngineEvent,
    EngineInfo,
    Finished,
    Message,
    MessageRefused,
    PromptReady,
    Request,
    Sampling,
    Setup,
    SideChat,
    SideChats,
    StopReason,
    Usage,
    one_line,
    thinking_problem,
)
from chatlm_serve.errors import ErrorJournal, as_api_error, field_error
from chatlm_serve.generation_request import (
    ClientConversation,
    GenerationRequest,
    TextPrompts,
    check_fits,
)
from chatlm_serve.images import check_images
from chatlm_serve.model_names import (
    ServedSetups,
    find_chat_model,
    list_chat_models,
    model_names,
    setup_for_parts,
    sort_setups,
    split_name,
)
from chatlm_serve.model_pool import ModelPool, ServedModel
from chatlm_serve.reply_events import ReplyEvent, ReplyEvents
from chatlm_serve.work_queue import QueueFull, SharedBatch, ShuttingDown

ReplyGenerator = Generator[EngineEvent | None, None, None]

ChoiceEvents = AsyncGenerator[tuple[int, ReplyEvent], None]
"""Events of several replies, each with the number of its reply, from 0."""

SETUPS_TTL_SECONDS = 2.0
"""Maximum age of the cached list of set-ups."""

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class ListedModel:
    """A name that requests may give."""

    name: str
    parent: str
    """The model that it is based on; empty for none."""
    context_length: int | None
    """Tokens; of a model that is not loaded its own, which may not fit in memory. None if
    unknown."""
    reads_images: bool


class ReplyService:
    """The served models, and the queues of the requests to them; call `stop` and then `close`.

    Args:
        chats: creates the chats that answer requests; its model is loaded at once.
        max_waiting: maximum number of requests that wait for a model.
        max_running: maximum number of requests a model answers concurrently, if the engine can.
        keep_seconds: how long other models are kept while nobody uses them.
    """

    def __init__(
        self, chats: SideChats, max_waiting: int, max_running: int, keep_seconds: float
    ) -> None:
        self.chats = chats
        self.journal = ErrorJournal()
        """The newest errors that clients got."""
        self.pool = ModelPool(chats, max_waiting, max_running, keep_seconds)
        self._setups_lock = asyncio.Lock()
        self._setups = ServedSetups()
        self._setups_listed_at = -SETUPS_TTL_SECONDS

    @property
    def info(self) -> EngineInfo:
        """The model that is served in any case."""
        return self.pool.default

    def stop(self) -> None:
        """Cancel all replies; call it in the event loop's thread."""
        self.pool.stop()

    def close(self) -> None:
        """Wait until all computation has ended; call `stop` first."""
        self.pool.close()

    def check_capacity(self, name: Any) -> None:
        """Check that a reply can be queued, before its request is parsed.

        Args:
            name: the model in the request, whatever it is.

        Raises:
            ApiError: too many wait for the model, or the server is shutting down.
        """
        model, _ = split_name(name, self.info.model) if isinstance(name, str) else ("", [])
        try:
            self.pool.check_capacity(model)
        except (QueueFull, ShuttingDown) as error:
            raise as_api_error(error) from error

    async def models(self) -> list[ListedModel]:
        """Return the models that requests may name.

        Other installed models can be combined with set-ups, too, but are listed alone.
        """
        own, context = self.info.model, self.info.context_length
        images = "image" in self.info.accepts
        listed = {
            name: ListedModel(name, own if name != own else "", context, images)
            for name in model_names(own, (await self._available_setups()).usable)
        }
        loaded = {model.name: model.info.context_length for model in self.pool.models}
        for details in await asyncio.to_thread(list_chat_models):
            length = loaded.get(details.name, details.context_length)
            reads_images = "images" in details.abilities
            listed.setdefault(details.name, ListedModel(details.name, "", length, reads_images))
        return list(listed.values())

    async def setup_for(self, name: str) -> tuple[str, Setup]:
        """Return the model and the set-up that a model name selects.

        Raises:
            ApiError: there is no such model.
        """
        model, parts = split_name(name, self.info.model)
        loaded = (model == each.name for each in self.pool.models)
        if model != self.info.model and not any(loaded):
            model = await asyncio.to_thread(find_chat_model, model, self.info.model)
        setup = Setup()
        if parts:
            setup = setup_for_parts(name, model, parts, await self._available_setups())
        served = "" if model == self.info.model else model
        return model, dataclasses.replace(setup, model=served)

    async def generate(self, request: GenerationRequest) -> ChoiceEvents:
        """Queue a request; the generator streams its replies, and cancels them when it is closed.

        Raises:
            ApiError: there is no such model, too many requests wait, or the messages are too long;
                from the generator: the reply failed.
        """
        name, setup = await self.setup_for(request.model)
        return self._choices(request, name, setup)

    async def _choices(self, request: GenerationRequest, name: str, setup: Setup) -> ChoiceEvents:
        try:
            async with self.pool.use(name, request.keep_seconds) as model:
                check_fits(request, model.info.context_length)
                model.queue.check_capacity(request.choices)
                async with aclosing(self._replies(request, model, setup)) as events:
                    async for item in events:
                        yield item
        except Exception as error:
            raise as_api_error(error) from error

    async def _replies(
        self, request: GenerationRequest, model: ServedModel, setup: Setup
    ) -> ChoiceEvents:
        streams = [
            self._stream(_of_choice(request, number), model, setup)
            for number in range(request.choices)
        ]
        try:
            if len(streams) == 1:
                async for event in streams[0]:
                    yield 0, event
                return
            async with aclosing(_merge(streams)) as merged:
                async for item in merged:
                    yield item
        finally:
            for stream in streams:
                await stream.aclose()

    async def load(self, name: str, keep_seconds: float | None) -> None:
        """Load a model without a request, or free it as soon as nothing uses it.

        Args:
            name: as requests name it.
            keep_seconds: how long it is kept; 0 frees it, None is as long as usual.

        Raises:
            ApiError: there is no such model, or it cannot be loaded.
        """
        model, _ = await self.setup_for(name)
        if keep_seconds == 0:
            self.pool.unload(model)
            return
        async with self.pool.use(model, keep_seconds):
            pass

    async def count_tokens(self, request: GenerationRequest) -> int:
        """Count the tokens of the prompt that a request becomes.

        Raises:
            ApiError: there is no such model, or the messages are too long.
        """
        name, setup = await self.setup_for(request.model)
        try:
            async with self.pool.use(name, request.keep_seconds) as model:
                check_fits(request, model.info.context_length)
                return await asyncio.to_thread(_count_tokens, self.chats, setup, request)
        except Exception as error:
            raise as_api_error(error) from error

    async def _stream(
        self, request: GenerationRequest, model: ServedModel, setup: Setup
    ) -> AsyncGenerator[ReplyEvent, None]:
        factory = partial(prepare_reply, self.chats, model.batch, setup, request)
        stream: AsyncGenerator[EngineEvent, None] = model.queue.stream(factory)
        read = ReplyEvents().read
        async with aclosing(stream) as events:
            async for engine_event in events:
                for event in read(engine_event):
                    yield event

    async def _available_setups(self) -> ServedSetups:
        """Return the set-ups that can be combined with the served model, and why others cannot.

        The list is cached briefly, since building it takes as long as generating a few tokens.
        """
        async with self._setups_lock:
            if time.monotonic() - self._setups_listed_at > SETUPS_TTL_SECONDS:
                self._setups = await asyncio.to_thread(self._list_setups)
                self._setups_listed_at = time.monotonic()
        return self._setups

    def _list_setups(self) -> ServedSetups:
        return sort_setups(self.chats.available_setups(), self.chats.available_templates())


async def _merge(streams: Sequence[AsyncGenerator[ReplyEvent, None]]) -> ChoiceEvents:
    """Yield the events of several streams as they come."""
    events: asyncio.Queue[tuple[int, ReplyEvent | Exception | None]] = asyncio.Queue()

    async def pump(number: int, stream: AsyncGenerator[ReplyEvent, None]) -> None:
        try:
            async for event in stream:
                events.put_nowait((number, event))
        except Exception as error:
            events.put_nowait((number, error))
        else:
            events.put_nowait((number, None))

    tasks = [asyncio.create_task(pump(*each)) for each in enumerate(streams)]
    running = len(tasks)
    try:
        while running:
            number, event = await events.get()
            if isinstance(event, Exception):
                raise event
            if event is None:
                running -= 1
            else:
                yield number, event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _of_choice(request: GenerationRequest, number: int) -> GenerationRequest:
    """Return the request for one reply, with its text, and a seed of its own if there is one."""
    prompt = request.conversation
    if isinstance(prompt, TextPrompts):
        each = request.choices // len(prompt.texts)
        text = TextPrompts((prompt.texts[number // each],), prompt.suffix)
        request = dataclasses.replace(request, conversation=text)
        number %= each
    seed = request.sampling.seed
    if seed is None or not number:
        return request
    sampling = dataclasses.replace(request.sampling, seed=(seed + number) % MAX_SEED)
    return dataclasses.replace(request, sampling=sampling)


def prepare_reply(
    chats: SideChats, batch: SharedBatch, setup: Setup, asked: GenerationRequest
) -> ReplyGenerator:
    """Build the request for one reply, and return the generator of its events.

    The generator yields None while waiting; closing it cancels the reply. If a plugin refuses the
    message, the reason is the reply.

    Args:
        chats: creates the chat.
        batch: the batch of its engine.
        setup: the set-up that the model name selects.
        asked: the client's request.

    Raises:
        ApiError: the model cannot think as the client wishes.
        ChatlmError: the set-up failed; from the generator: the engine failed.
        ContextTooLong: from the generator: the messages do not fit the context. The engine alone
            would omit the oldest without the client noticing.
    """
    prompt = asked.conversation
    if isinstance(prompt, TextPrompts):
        return _generate_reply((), batch, _raw_request(chats, setup, asked, prompt))
    try:
        chat, request = _build_request(chats, setup, asked, prompt)
    except MessageRefused as refusal:
        return _generate_refusal(refusal)
    first = () if prompt.turn.reply else chat.events_without_engine(request)
    return _generate_reply(first, batch, request)


def _build_request(
    chats: SideChats, setup: Setup, asked: GenerationRequest, conversation: ClientConversation
) -> tuple[SideChat, Request]:
    info = chats.begin(setup).engine.info
    check_images(conversation.images, info)
    sampling = _check_thinking(asked, info)
    setup = dataclasses.replace(
        setup,
        system=conversation.system or setup.system,
        sampling=sampling.with_fallback(setup.sampling),
    )
    chat = chats.begin(setup)
    for turn in conversation.history:
        with suppress(MessageRefused):  # no model has read it
            chat.add(turn.question, turn.reply, turn.images)
    turn = conversation.turn
    request = chat.request(turn.question, turn.reply, turn.images)
    request = dataclasses.replace(
        request,
        images={**request.images, **conversation.result_images},
        logprobs=asked.logprobs,
        max_new_tokens=asked.sampling.max_tokens,  # here it counts thoughts, too
        tools=asked.tools,
        tool_choice=asked.tool_choice,
        parallel_tool_calls=asked.parallel_tool_calls,
    )
    return chat, request


def _count_tokens(chats: SideChats, setup: Setup, asked: GenerationRequest) -> int:
    conversation = asked.conversation
    if isinstance(conversation, TextPrompts):
        request = _raw_request(chats, setup, asked, conversation)
    else:
        _, request = _build_request(chats, setup, asked, conversation)
    prompt = chats.begin(setup).engine.preview(request)
    return sum(prompt.message_tokens) if prompt.omitted else len(prompt.tokens)


def _raw_request(
    chats: SideChats, setup: Setup, asked: GenerationRequest, prompt: TextPrompts
) -> Request:
    """Return the request to continue a text, or to fill its gap.

    Raises:
        ApiError: the set-up is more than an adapter and sampling, which need no chat, or the model
            cannot do it.
    """
    if setup.template or setup.system or setup.plugin_data:
        raise field_error(
            "model",
            "a text is continued by a model with an adapter only, not with a template or an index.",
        )
    engine = chats.begin(setup).engine
    info = engine.info
    if prompt.suffix is None and "text" not in info.raw_prompts:
        raise field_error("model", "it answers messages only, and continues no text.")
    if prompt.suffix is not None and "gap" not in info.raw_prompts:
        raise field_error(
            "suffix",
            f"the model {one_line(info.model, 60)} cannot fill a gap, since its tokenizer has no "
            "tokens for that. Use one that can, such as Qwen2.5-Coder.",
            "unsupported_value",
        )
    sampling = asked.sampling.with_fallback(setup.sampling)
    texts = (*prompt.texts, *([] if prompt.suffix is None else [prompt.suffix]))
    return Request(
        tuple(Message("user", text, pinned=True) for text in texts),
        sampling.with_fallback(info.default_sampling),
        setup.adapter or None,
        adapter_fixed=True,
        logprobs=asked.logprobs,
        max_new_tokens=sampling.max_tokens,
        raw=True,
    )


def _generate_refusal(refusal: MessageRefused) -> ReplyGenerator:
    yield Delta(refusal.message)
    yield Finished(StopReason.END, Usage())


def _generate_reply(
    first: Sequence[EngineEvent], batch: SharedBatch, request: Request
) -> ReplyGenerator:
    yield from first
    if request.reply_complete:
        return
    with closing(batch.stream(request)) as events:
        for event in events:
            if isinstance(event, PromptReady) and event.omitted_messages:
                raise ContextTooLong(
                    "The messages and the reply do not fit the context of "
                    f"{event.context_length:,} tokens: {len(event.omitted_messages)} of the "
                    "messages would be omitted.",
                    hint="Remove the oldest messages, or lower max_tokens.",
                )
            yield event


def _check_thinking(asked: GenerationRequest, info: EngineInfo) -> Sampling:
    """Return the sampling for a model, which may think anyway where a client switches it on.

    Raises:
        ApiError: the model cannot follow the client's setting.
    """
    sampling = asked.sampling
    problem = thinking_problem(sampling.thinking, info)
    if problem is None:
        return sampling
    followed = info.thinks and asked.thinking_is_switch and sampling.thinking != "off"
    if followed or asked.thinking_is_wish:
        return dataclasses.replace(sampling, thinking=None)
    raise field_error(asked.thinking_field, str(problem), "unsupported_value")
