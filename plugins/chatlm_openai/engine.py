"""An engine for a model on a server; its prompt sizes are estimates."""

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
from chatlm_openai.local_servers import (
    OLLAMA_DEFAULT_CONTEXT,
    LocalModel,
    find_local_models,
)
from chatlm_openai.protocol import RemoteModel
from chatlm_openai.settings import Settings
from chatlm_openai.usual_ports import PROGRAMS

ESTIMATE_MARGIN = 8
"""One eighth of the estimated prompt is left free, since the estimate may be too low."""


SERVER_LIMIT_HINT = (
    "Shorten the message, unpin turns, or start the server with a larger context window."
)
"""Hint for a chat that exceeds the context window reported by the server."""


CONTEXT_SETTING_HINT = (
    "If the server's context window is larger: chatlm config set plugins.openai.context N"
)
"""Addition to the hint if the context window is configured or assumed."""


class OpenAIEngine:
    """One model on a server.

    Args:
        loop_thread: runs the connections; closed with the engine.
        server: client of the server.
        model: the server's name for the model.
        info: what is known about the model.
        in_flight: maximum number of requests of a batch that run at the same time.
        is_server_limit: whether the server reported the context length in use.
        sends_thoughts: whether the server wants the thoughts of earlier replies.
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
        sends_thoughts: bool,
    ) -> None:
        self.info = info
        self._loop_thread = loop_thread
        self._server = server
        self._model = model
        self._in_flight = in_flight
        self._is_server_limit = is_server_limit
        self._sends_thoughts = sends_thoughts

    def preview(self, request: Request) -> Prompt:
        """Return the prompt that `stream` would send, with estimated tokens.

        Raises:
            ContextTooLong: the newest message does not fit.
        """
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
        """Return the estimated number of tokens of messages in a prompt."""
        return ESTIMATED_TOKENS.count_tokens(messages)

    def close(self) -> None:
        """Cancel all requests and close the connections."""
        self._loop_thread.close()

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        """Do nothing: the protocol has no way to read a prompt ahead."""
        yield from ()

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """Stream a reply. Several streams may run at the same time.

        Raises:
            ContextTooLong: the newest message does not fit.
            EngineError: the server cannot be reached, refuses, or failed.
        """
        with closing(stream_many(self, [request])) as events:
            for _, event in events:
                yield event

    def batch(self) -> ServerBatch:
        """Open a batch of requests that run at the same time."""
        return ServerBatch(self._prepare, self._server, self._loop_thread, self._in_flight)

    def _prepare(self, request: Request) -> PreparedRequest:
        """Fit the request to the context window and build its body."""
        prompt = self.preview(request)
        sampling = request.sampling.with_fallback(self.info.default_sampling)
        omitted = set(prompt.omitted)
        messages = [m for at, m in enumerate(request.messages) if at not in omitted]
        if messages[-1].role == "assistant" and not messages[-1].text:
            del messages[-1]  # cut in its thought, which no server continues
        prompt_tokens = len(prompt.tokens)
        margin = prompt_tokens // ESTIMATE_MARGIN
        tokens_left = max(prompt.context_length - prompt_tokens - margin, 1)
        max_tokens = sampling.max_tokens or tokens_left
        fits = max_tokens <= tokens_left
        sampling = dataclasses.replace(sampling, max_tokens=min(max_tokens, tokens_left))
        model = self._target_model(request.adapter)
        body = protocol.build_body(
            model,
            dataclasses.replace(request, messages=tuple(messages)),
            sampling,
            sends_thoughts=self._sends_thoughts,
        )
        limit_reason = StopReason.LENGTH if fits else StopReason.CONTEXT_FULL
        return PreparedRequest(
            prompt,
            tuple(request.messages[index] for index in prompt.omitted),
            body,
            ResponseStream(
                sampling,
                prompt_tokens,
                limit_reason,
                continues=messages[-1].role == "assistant",
            ),
        )

    def _target_model(self, adapter: str | None) -> str:
        """Return the model name for the request: the model, or its adapter.

        Raises:
            EngineError: the server has no such adapter for the model.
        """
        if not adapter:
            return self._model
        if adapter not in self.info.adapters:  # it may have been loaded in the meantime
            remote_models = self._loop_thread.run(self._server.try_list_models()) or ()
            adapters = adapters_of(self._model, remote_models)
            self.info = dataclasses.replace(self.info, adapters=adapters)
        if adapter not in self.info.adapters:
            error = self._server.error_messages.unknown_adapter(adapter, self.info.adapters)
            error.hint += (
                "\nAdapters on this machine work with local models only. To use none: /lora off in "
                "the chat, --adapter off in the shell."
            )
            raise error
        return adapter


DEFAULT_SAMPLING = Sampling(max_tokens=1024)
"""Default sampling; all but the length is left to the server."""


ASSUMED_CONTEXT = 8192
"""Context length if neither the server nor the settings give one."""


def open_engine(name: str) -> OpenAIEngine:
    """Open a model on a server.

    Args:
        name: MODEL@URL, MODEL@ENDPOINT, or MODEL on the first endpoint.

    Raises:
        UsageError: there is no such endpoint.
        EngineError: the server cannot be reached, or refuses.
    """
    settings = load_plugin_settings(PLUGIN, Settings)
    model, endpoint = split_model_name(name, settings.parse_endpoints())
    server = ServerClient(endpoint, settings)
    loop_thread = EventLoopThread()
    try:
        remote_models = loop_thread.run(server.try_list_models()) or []
        local = loop_thread.run(_describe_local(endpoint, model))
    except BaseException:
        loop_thread.close()
        raise
    if local and local.context_length:
        context = local.context_length
        if local.note:  # the server gives it less than the model has
            context = min(context, OLLAMA_DEFAULT_CONTEXT)
        remote_models = [
            dataclasses.replace(each, context_length=context) if each.name == model else each
            for each in remote_models
        ]
    reported = next((each.context_length for each in remote_models if each.name == model), None)
    info = _engine_info(name, model, endpoint, settings, remote_models)
    if local and "images" in local.abilities:
        info = dataclasses.replace(info, accepts=info.accepts | {"image"})
    if local and local.note:
        info = dataclasses.replace(info, notes=(*info.notes, local.note))
    return OpenAIEngine(
        loop_thread,
        server,
        model,
        info,
        in_flight=settings.in_flight,
        is_server_limit=info.context_length == reported,
        sends_thoughts=bool({endpoint.name, endpoint.url} & set(settings.thoughts_to)),
    )


async def _describe_local(endpoint: Endpoint, model: str) -> LocalModel | None:
    """Return what a known program on this machine says about its model."""
    program = PROGRAMS.get(endpoint.name)
    if program is None or program.url != endpoint.url:
        return None
    found = await find_local_models([program])
    return next((each for each in found.get(program.name, []) if each.name == model), None)


def _engine_info(
    name: str,
    model: str,
    endpoint: Endpoint,
    settings: Settings,
    remote_models: Sequence[RemoteModel],
) -> EngineInfo:
    """Describe a model, given the list of models from the server."""
    reported = {remote.name: remote.context_length for remote in remote_models}
    limit = load_config().context
    known = reported.get(model) or settings.context
    unlisted = [_unlisted_note(endpoint, model)] if reported and model not in reported else []
    assumed = [] if known or limit else [_assumed_context_note(endpoint)]
    images = any(each.reads_images for each in remote_models if each.name == model) or bool(
        {model, endpoint.name, endpoint.url} & set(settings.images_to)
    )
    return EngineInfo(
        model=f"{PLUGIN}:{name}",
        device=endpoint.host,
        weights="on this machine's server" if endpoint.is_local else "remote",
        context_length=min(filter(None, (known, limit)), default=ASSUMED_CONTEXT),
        prompt_format="the server's",
        default_sampling=DEFAULT_SAMPLING,
        notes=(*unlisted, *assumed),
        adapters=adapters_of(model, remote_models),
        constraints=frozenset({"schema"}),
        accepts=frozenset({"text", "tool_call", "tool_result", *(["image"] if images else [])}),
        part_hints={
            "image": f"If {one_line(model, 60)} takes images: chatlm config set "
            f"plugins.openai.images_to {endpoint.display_name}"
        },
    )


def _unlisted_note(endpoint: Endpoint, model: str) -> str:
    return (
        f"{endpoint.display_name} does not list {one_line(model, 80)}; it may answer with "
        "another model. "
        f"List its models: chatlm openai models {endpoint.display_name}"
    )


def _assumed_context_note(endpoint: Endpoint) -> str:
    return (
        f"{endpoint.display_name} does not report the model's context window; "
        f"{ASSUMED_CONTEXT:,} tokens are assumed. "
        "Set the actual size: chatlm config set plugins.openai.context N"
    )


_TOKEN_PATTERN = re.compile(
    r" ?[A-Za-z\u00c0-\u024f]{1,6}| ?\d{1,2}| ?[!-/:-@\[-`{-~]|\s{1,8}|.", re.DOTALL
)
"""Up to six Latin letters, two digits or one other character. That gives slightly more tokens than
today's tokenizers do for English and code, so that a prompt that should fit mostly does."""


ESTIMATED_TOKENS = EstimatedTokens(_TOKEN_PATTERN.findall)
"""Estimates the prompts of all models on servers."""
