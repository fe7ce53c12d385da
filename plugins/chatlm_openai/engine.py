"""OpenAIEngine; open one; token estimate."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing

from chatlm import (
    ContextTooLong,
    EngineEvent,
    EngineInfo,
    EstimatedTokens,
    Message,
    Prefill,
    Prompt,
    Request,
    Sampling,
    StopReason,
    load_config,
    load_plugin_settings,
    one_line,
    stream_many,
)
from chatlm_openai import PLUGIN, protocol
from chatlm_openai.adapters import adapters_of
from chatlm_openai.batch import PreparedRequest, ResponseStream, ServerBatch
from chatlm_openai.client import EventLoopThread, ServerClient
from chatlm_openai.endpoints import Endpoint, split_model_name
from chatlm_openai.protocol import RemoteModel
from chatlm_openai.settings import Settings

ESTIMATE_MARGIN = 8
"""One part of so many of the prompt's estimate is kept free, since it may be too low."""


SERVER_LIMIT_HINT = "Shorten the message, unpin turns, or start the server with a longer context."


CONTEXT_SETTING_HINT = (
    "Where the server has more context than that: chatlm config set plugins.openai.context N"
)
"""What helps where a chat is too long for what the server says it has, and else."""


class OpenAIEngine:
    """One model on a server.

    Args:
        loop_thread: where the connections live; closed with the engine.
        server: that has the model.
        model: as the server calls it.
        info: what is known of it.
        in_flight: replies that a batch asks for at once.
        is_server_limit: whether the context is all that the server says it has.
    """

    def __init__(
        self,
        loop_thread: EventLoopThread,
        server: ServerClient,
        model: str,
        info: EngineInfo,
        *,
        in_flight: int,
        is_server_limit: bool,
    ) -> None:
        self.info = info
        self._loop_thread = loop_thread
        self._server = server
        self._model = model
        self._in_flight = in_flight
        self._is_server_limit = is_server_limit

    def preview(self, request: Request) -> Prompt:
        """See `Engine.preview`; the tokens are estimated."""
        try:
            return ESTIMATED_TOKENS.preview(request, self.info)
        except ContextTooLong as error:
            error.hint = (
                SERVER_LIMIT_HINT
                if self._is_server_limit
                else f"{error.hint} {CONTEXT_SETTING_HINT}"
            )
            raise

    def count_tokens(self, messages: Iterable[Message]) -> int:
        """See `Engine.count_tokens`; estimated."""
        return ESTIMATED_TOKENS.count_tokens(messages)

    def close(self) -> None:
        """Close what is open."""
        self._loop_thread.close()

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        """See `Engine.read_ahead`; a server is not asked to."""
        yield from ()

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """See `Engine.stream`; several may run at a time."""
        with closing(stream_many(self, [request])) as events:
            for _, event in events:
                yield event

    def batch(self) -> ServerBatch:
        """Several requests at once; see `chatlm.Batch`."""
        return ServerBatch(self._prepare, self._server, self._loop_thread, self._in_flight)

    def _prepare(self, request: Request) -> PreparedRequest:
        """Fit the prompt and write down what is asked."""
        prompt = self.preview(request)
        sampling = request.sampling.with_fallback(self.info.default_sampling)
        left_out = set(prompt.omitted)
        messages = tuple(m for at, m in enumerate(request.messages) if at not in left_out)
        taken = len(prompt.tokens)
        room = max(prompt.context_length - taken - taken // ESTIMATE_MARGIN, 1)
        wanted = sampling.max_tokens or room
        at_most = StopReason.LENGTH if wanted <= room else StopReason.CONTEXT_FULL
        sampling = dataclasses.replace(sampling, max_tokens=min(wanted, room))
        model = self._target_model(request.adapter)
        sent = protocol.build_body(model, dataclasses.replace(request, messages=messages), sampling)
        return PreparedRequest(
            prompt,
            tuple(request.messages[index] for index in prompt.omitted),
            sent,
            ResponseStream(sampling, taken, at_most),
        )

    def _target_model(self, adapter: str | None) -> str:
        """What the server is asked for: the model, or its adapter.

        Raises:
            EngineError: the server has no such adapter for the model.
        """
        if not adapter:
            return self._model
        if adapter not in self.info.adapters:  # it may have been loaded since
            there = self._loop_thread.run(self._server.try_list_models()) or ()
            own = adapters_of(self._model, there)
            self.info = dataclasses.replace(self.info, adapters=own)
        if adapter not in self.info.adapters:
            error = self._server.error_messages.unknown_adapter(adapter, self.info.adapters)
            error.hint += (
                "\nThose of this machine work with local models alone. Without any: /lora off in "
                "the chat, --adapter off in the shell."
            )
            raise error
        return adapter


DEFAULT_SAMPLING = Sampling(max_tokens=1024)
"""What is asked for where nobody says anything: all but the length is left to the server."""


ASSUMED_CONTEXT = 8192
"""Tokens of context where neither the server nor the person says how many."""


def open_engine(name: str) -> OpenAIEngine:
    """The engine of a model.

    Args:
        name: MODEL@URL, MODEL@ENDPOINT, or MODEL on the first endpoint.

    Raises:
        UsageError: there is no such endpoint.
        EngineError: the server cannot be reached, or refuses.
    """
    settings = load_plugin_settings(PLUGIN, Settings)
    model, endpoint = split_model_name(name, settings.parse_endpoints())
    server = ServerClient(endpoint, settings)
    background = EventLoopThread()
    try:
        listed = background.run(server.try_list_models()) or []
    except BaseException:
        background.close()
        raise
    said = next((each.context_length for each in listed if each.name == model), None)
    info = _engine_info(name, model, endpoint, settings, listed)
    return OpenAIEngine(
        background, server, model, info,
        in_flight=settings.in_flight, is_server_limit=info.context_length == said,
    )  # fmt: skip


def _engine_info(
    name: str,
    model: str,
    endpoint: Endpoint,
    settings: Settings,
    remote_models: Sequence[RemoteModel],
) -> EngineInfo:
    """What is known of a model, by the models that the server says it has."""
    said = {each.name: each.context_length for each in remote_models}
    most = load_config().context
    known = said.get(model) or settings.context
    unlisted = [_unlisted_note(endpoint, model)] if said and model not in said else []
    assumed = [] if known or most else [_assumed_context_note(endpoint)]
    return EngineInfo(
        model=f"{PLUGIN}:{name}",
        device=endpoint.host,
        dtype="remote",
        context_length=min(filter(None, (known, most)), default=ASSUMED_CONTEXT),
        prompt_format="the server's",
        default_sampling=DEFAULT_SAMPLING,
        notes=(*unlisted, *assumed),
        adapters=adapters_of(model, remote_models),
    )


def _unlisted_note(endpoint: Endpoint, model: str) -> str:
    return (
        f"{endpoint.display_name} does not list {one_line(model, 80)}; it may answer with "
        "another model. "
        f"What it has: chatlm openai models {endpoint.display_name}"
    )


def _assumed_context_note(endpoint: Endpoint) -> str:
    return (
        f"{endpoint.display_name} does not say how much context the model has; "
        f"{ASSUMED_CONTEXT:,} tokens are "
        "assumed. What it really has: chatlm config set plugins.openai.context N"
    )


_TOKEN_PATTERN = re.compile(
    r" ?[A-Za-z\u00c0-\u024f]{1,6}| ?\d{1,2}| ?[!-/:-@\[-`{-~]|\s{1,8}|.", re.DOTALL
)
"""Up to six Latin letters, two digits or one other character: a little more than the tokenizers of
today need for English and code, so that what is thought to fit mostly does."""


ESTIMATED_TOKENS = EstimatedTokens(_TOKEN_PATTERN.findall)
"""The prompts of all models on servers."""
