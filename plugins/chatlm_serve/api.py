"""Routes; the uvicorn server and its graceful stop."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.server import HANDLED_SIGNALS

from chatlm import Setup, SideChats
from chatlm_serve import embeddings
from chatlm_serve.completions import (
    SETUP_SEPARATOR,
    CompletionResponse,
    EngineEvents,
    generate_reply,
    model_names,
    parse_params,
    setup_for_model,
)
from chatlm_serve.embeddings import Embedder, embedding_response, parse_embedding_request
from chatlm_serve.errors import ApiError, as_api_error
from chatlm_serve.http_guard import HEALTH_PATH, GuardMiddleware, error_response, read_json_body
from chatlm_serve.work_queue import QueueFull, SharedBatch, ShuttingDown, WorkQueue

T = TypeVar("T")


SETUPS_TTL_SECONDS = 2.0
"""So old may the list of set-ups be."""


CLIENT_CLOSED_REQUEST = 499
"""A status that nobody gets to see, as nginx has it."""


class Api:
    """What the addresses do. `stop` and `close` it at the end.

    Args:
        chats: by which requests are answered; its model is loaded now.
        max_waiting: how many requests may wait while others are answered.
        max_running: how many are answered at once, if the engine can do that.
    """

    def __init__(self, chats: SideChats, max_waiting: int, max_running: int) -> None:
        self._chats = chats
        engine = chats.begin(Setup()).engine
        info = engine.info
        self.model = info.model
        self._context = info.context_length
        self._embedder = Embedder()
        self._setups_lock = asyncio.Lock()
        self._setups: dict[str, Setup] = {}
        self._setups_listed_at = -SETUPS_TTL_SECONDS
        batch = engine.batch()
        self._batch = SharedBatch(batch)
        self._reply_queue = WorkQueue(max_waiting, min(max_running, batch.max_concurrency))
        self._embedding_queue = WorkQueue(max_waiting)

    def app(self, *, loopback: bool, token: str) -> Starlette:
        """The ASGI app; arguments as of `Guard`."""
        return Starlette(
            routes=[
                Route(HEALTH_PATH, self._health),
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat_completions, methods=["POST"]),
                Route("/v1/embeddings", self._embed, methods=["POST"]),
            ],
            middleware=[Middleware(GuardMiddleware, loopback=loopback, token=token)],
            exception_handlers={
                HTTPException: _handle_http_error,
                ClientDisconnect: _handle_disconnect,
                ApiError: _handle_error,
                Exception: _handle_error,
            },
        )

    def stop(self) -> None:
        """End all replies; for the event loop's thread."""
        self._reply_queue.stop()
        self._embedding_queue.stop()

    def close(self) -> None:
        """Wait until nothing is computed any more; call `stop` before."""
        self._reply_queue.close()
        self._batch.close()
        self._embedding_queue.close()

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _models(self, request: Request) -> Response:
        offered = await self._available_setups()
        about = {"object": "model", "created": 0, "owned_by": "chatlm"}
        chat = about | {"max_model_len": self._context}  # as vLLM calls it
        models = [
            {"id": name}
            | chat
            | ({"parent": self.model} if SETUP_SEPARATOR in name.removeprefix(self.model) else {})
            for name in model_names(self.model, offered)
        ]
        if embeddings.is_installed():
            models.append({"id": embeddings.EMBEDDING_MODEL} | about)
        return JSONResponse({"object": "list", "data": models})

    async def _chat_completions(self, request: Request) -> Response:
        try:  # whoever is turned away takes no time from those who are answered
            self._reply_queue.check_capacity()
        except (QueueFull, ShuttingDown) as error:
            raise as_api_error(error) from error
        params = parse_params(await read_json_body(request), self._context)
        setup = Setup()
        if params.model != self.model:
            setup = setup_for_model(params.model, self.model, await self._available_setups())
        reply = CompletionResponse(params)
        begin = partial(generate_reply, self._chats, self._batch, setup, params)
        events: EngineEvents = self._reply_queue.stream(begin)
        if not params.stream:
            return JSONResponse(await _while_connected(request, reply.collect(events)))
        first = await _while_connected(request, _next(events))  # until then it can fail as a whole
        return EventStream(reply.stream(first, events))

    async def _embed(self, request: Request) -> Response:
        wanted = parse_embedding_request(await read_json_body(request))
        parts = self._embedding_queue.stream(partial(self._embedder.embed, wanted.texts))
        return JSONResponse(
            embedding_response(await _while_connected(request, _collect(parts)), wanted)
        )

    async def _available_setups(self) -> dict[str, Setup]:
        """The set-ups that can be joined to the served model, as they were a moment ago.

        To list them takes as long as some tokens.
        """
        async with self._setups_lock:
            if time.monotonic() - self._setups_listed_at > SETUPS_TTL_SECONDS:
                offered = await asyncio.to_thread(self._chats.available_setups)
                self._setups = {name: setup for name, setup in offered.items() if not setup.model}
                self._setups_listed_at = time.monotonic()
        return self._setups


class EventStream(StreamingResponse):
    """Server-sent events, whose generator is closed when the client is gone.

    Args:
        events: the events.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `StreamingResponse`."""
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


async def _while_connected(request: Request, coroutine: Coroutine[Any, Any, T]) -> T:
    """The work's result; a client that goes away ends it.

    Raises:
        ClientDisconnect: it went away.
        ApiError: the work failed.
    """
    task = asyncio.create_task(coroutine)
    gone = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        task.cancel()
    if not task.done():
        raise ClientDisconnect
    try:
        return task.result()
    except Exception as error:
        raise as_api_error(error) from error


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _next(events: AsyncGenerator[T, None]) -> T:
    return await anext(events)


async def _collect(events: AsyncGenerator[T, None]) -> list[T]:
    async with aclosing(events):
        return [event async for event in events]


async def _handle_error(request: Request, error: Exception) -> Response:
    return error_response(as_api_error(error))


async def _handle_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: "There is nothing at", 405: "This method is not for"}
    return error_response(ApiError(status, f"{words.get(status, 'Failed:')} {request.url.path}"))


async def _handle_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


SHUTDOWN_SECONDS = 5
"""Seconds for streams to end in when the server is told to."""


class ApiServer(uvicorn.Server):
    """Ends streams when it is told to end, and then is done.

    Args:
        api: what is served.
        loopback: see `Guard`.
        token: the same.
    """

    def __init__(self, api: Api, *, loopback: bool, token: str) -> None:
        super().__init__(
            uvicorn.Config(
                api.app(loopback=loopback, token=token),
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )
        self._api = api

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer until SIGINT or SIGTERM, and return when the engine stands still."""
        try:
            super().run(sockets)
        finally:
            self._api.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        self._api.stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, but without raising the signal once more at the end."""
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
