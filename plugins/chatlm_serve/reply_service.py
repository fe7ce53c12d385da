"""Replies to clients: finds the model, builds its request, and queues it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing, suppress
from functools import partial

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
    SideChats,
    StopReason,
    Usage,
    one_line,
    thinking_problem,
)
from chatlm_serve.errors import as_api_error, field_error
from chatlm_serve.generation_request import GenerationRequest, TextPrompts, check_fits
from chatlm_serve.model_names import SETUP_SEPARATOR, model_names, setup_for_model
from chatlm_serve.reply_events import ReplyEvent, reply_events
from chatlm_serve.work_queue import QueueFull, SharedBatch, ShuttingDown, WorkQueue

ReplyGenerator = Generator[EngineEvent | None, None, None]

ChoiceEvents = AsyncGenerator[tuple[int, ReplyEvent], None]
"""Events of several replies, each with the number of its reply, from 0."""

SETUPS_TTL_SECONDS = 2.0
"""Maximum age of the cached list of set-ups."""

MAX_SEED = 2**63 - 1


class ReplyService:
    """The served model, and the queue of the requests to it; call `stop` and then `close`.

    Args:
        chats: creates the chats that answer requests; its model is loaded at once.
        max_waiting: maximum number of requests that wait.
        max_running: maximum number of requests answered concurrently, if the engine can.
    """

    def __init__(self, chats: SideChats, max_waiting: int, max_running: int) -> None:
        self.chats = chats
        engine = chats.begin(Setup()).engine
        self.info = engine.info
        self._setups_lock = asyncio.Lock()
        self._setups: dict[str, Setup] = {}
        self._setups_listed_at = -SETUPS_TTL_SECONDS
        batch = engine.batch()
        self._batch = SharedBatch(batch)
        self._queue = WorkQueue(max_waiting, min(max_running, batch.max_concurrency))

    def stop(self) -> None:
        """Cancel all replies; call it in the event loop's thread."""
        self._queue.stop()

    def close(self) -> None:
        """Wait until all computation has ended; call `stop` first."""
        self._queue.close()
        self._batch.close()

    def check_capacity(self, count: int = 1) -> None:
        """Check that more replies can be queued.

        Raises:
            ApiError: too many wait, or the server is shutting down.
        """
        try:
            self._queue.check_capacity(count)
        except (QueueFull, ShuttingDown) as error:
            raise as_api_error(error) from error

    async def models(self) -> dict[str, str]:
        """Return the names that requests may give, each with the model it is based on."""
        return {
            name: self.info.model if SETUP_SEPARATOR in name.removeprefix(self.info.model) else ""
            for name in model_names(self.info.model, await self._available_setups())
        }

    async def setup_for(self, name: str) -> Setup:
        """Return the set-up that a model name selects.

        Raises:
            ApiError: there is no such model.
        """
        if name == self.info.model:
            return Setup()
        return setup_for_model(name, self.info.model, await self._available_setups())

    async def generate(self, request: GenerationRequest) -> ChoiceEvents:
        """Queue a request; the generator streams its replies, and cancels them when it is closed.

        Raises:
            ApiError: there is no such model, too many requests wait, or the messages are too long;
                from the generator: the reply failed.
        """
        setup = await self.setup_for(request.model)
        check_fits(request, self.info.context_length)
        self.check_capacity(request.choices)
        return self._choices(request, setup)

    async def _choices(self, request: GenerationRequest, setup: Setup) -> ChoiceEvents:
        streams = [
            self._stream(_of_choice(request, number), setup) for number in range(request.choices)
        ]
        try:
            if len(streams) == 1:
                async for event in streams[0]:
                    yield 0, event
                return
            async with aclosing(_merge(streams)) as merged:
                async for item in merged:
                    yield item
        except Exception as error:
            raise as_api_error(error) from error
        finally:
            for stream in streams:
                await stream.aclose()

    async def _stream(
        self, request: GenerationRequest, setup: Setup
    ) -> AsyncGenerator[ReplyEvent, None]:
        factory = partial(prepare_reply, self.chats, self._batch, setup, request)
        stream: AsyncGenerator[EngineEvent, None] = self._queue.stream(factory)
        async with aclosing(stream) as events:
            async for engine_event in events:
                for event in reply_events(engine_event):
                    yield event

    async def _available_setups(self) -> dict[str, Setup]:
        """Return the set-ups that can be combined with the served model.

        The list is cached briefly, since building it takes as long as generating a few tokens.
        """
        async with self._setups_lock:
            if time.monotonic() - self._setups_listed_at > SETUPS_TTL_SECONDS:
                setups = await asyncio.to_thread(self.chats.available_setups)
                self._setups = {name: setup for name, setup in setups.items() if not setup.model}
                self._setups_listed_at = time.monotonic()
        return self._setups


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
    conversation = asked.conversation
    if isinstance(conversation, TextPrompts):
        return _generate_reply((), batch, _raw_request(chats, setup, asked, conversation))
    sampling = _check_thinking(asked, chats.begin(setup).engine.info)
    setup = dataclasses.replace(
        setup,
        system=conversation.system or setup.system,
        sampling=sampling.with_fallback(setup.sampling),
    )
    chat = chats.begin(setup)
    try:
        for turn in conversation.history:
            with suppress(MessageRefused):  # no model has read it
                chat.add(turn.question, turn.reply)
        request = dataclasses.replace(
            chat.request(conversation.turn.question, conversation.turn.reply),
            logprobs=asked.logprobs,
            max_new_tokens=asked.sampling.max_tokens,  # here it counts thoughts, too
            tools=asked.tools,
            tool_choice=asked.tool_choice,
            parallel_tool_calls=asked.parallel_tool_calls,
        )
    except MessageRefused as refusal:
        return _generate_refusal(refusal)
    first = () if conversation.turn.reply else chat.events_without_engine(request)
    return _generate_reply(first, batch, request)


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
    if info.thinks and asked.thinking_is_switch and sampling.thinking != "off":
        return dataclasses.replace(sampling, thinking=None)
    raise field_error(asked.thinking_field, str(problem), "unsupported_value")
