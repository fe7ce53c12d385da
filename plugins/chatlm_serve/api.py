"""The OpenAI-compatible API: its routes, and the server with graceful shutdown."""

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

from chatlm import Documents, Setup, SideChats, UsageError
from chatlm_serve import documents, embeddings
from chatlm_serve.completions import (
    SETUP_SEPARATOR,
    CompletionResponse,
    EngineEvents,
    model_names,
    parse_params,
    prepare_reply,
    setup_for_model,
)
from chatlm_serve.connections import (
    BACKLOG,
    connection_limit,
    limited_protocol,
    quiet_accept_errors,
)
from chatlm_serve.documents import parse_search_request, search_response
from chatlm_serve.embeddings import Embedder, embedding_response, parse_embedding_request
from chatlm_serve.errors import ApiError, as_api_error
from chatlm_serve.http_guard import HEALTH_PATH, GuardMiddleware, error_response, read_json_body
from chatlm_serve.work_queue import QueueFull, SharedBatch, ShuttingDown, WorkQueue

T = TypeVar("T")

SETUPS_TTL_SECONDS = 2.0
"""Maximum age of the cached list of set-ups."""

SHUTDOWN_SECONDS = 5
"""Time for open streams to end on shutdown."""

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that disconnected; nobody receives it."""


class Api:
    """The endpoint's handlers; call `stop` and then `close` at the end.

    Args:
        chats: creates the chats that answer requests; its model is loaded at once.
        max_waiting: maximum number of requests that wait.
        max_running: maximum number of requests answered concurrently, if the engine can.
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
        """Create the ASGI app; the arguments are those of `GuardMiddleware`."""
        return Starlette(
            routes=[
                Route(HEALTH_PATH, self._health),
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat_completions, methods=["POST"]),
                Route("/v1/embeddings", self._embed, methods=["POST"]),
                Route("/v1/vector_stores", self._vector_stores),
                Route("/v1/vector_stores/{name}/search", self._search, methods=["POST"]),
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
        """Cancel all replies; call it in the event loop's thread."""
        self._reply_queue.stop()
        self._embedding_queue.stop()

    def close(self) -> None:
        """Wait until all computation has ended; call `stop` first."""
        self._reply_queue.close()
        self._batch.close()
        self._embedding_queue.close()

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _models(self, request: Request) -> Response:
        setups = await self._available_setups()
        common = {"object": "model", "created": 0, "owned_by": "chatlm"}
        chat = common | {"max_model_len": self._context}  # vLLM's name for it
        models = [
            {"id": name}
            | chat
            | ({"parent": self.model} if SETUP_SEPARATOR in name.removeprefix(self.model) else {})
            for name in model_names(self.model, setups)
        ]
        if embeddings.is_installed():
            models.append({"id": embeddings.EMBEDDING_MODEL} | common)
        return JSONResponse({"object": "list", "data": models})

    async def _chat_completions(self, request: Request) -> Response:
        try:  # before parsing, so that rejected requests cost nothing
            self._reply_queue.check_capacity()
        except (QueueFull, ShuttingDown) as error:
            raise as_api_error(error) from error
        params = parse_params(await read_json_body(request), self._context)
        setup = Setup()
        if params.model != self.model:
            setup = setup_for_model(params.model, self.model, await self._available_setups())
        reply = CompletionResponse(params)
        factory = partial(prepare_reply, self._chats, self._batch, setup, params)
        events: EngineEvents = self._reply_queue.stream(factory)
        if not params.stream:
            return JSONResponse(await _while_connected(request, reply.collect(events)))
        first = await _while_connected(
            request, _next(events)
        )  # an error before it can still set the status
        return EventStream(reply.stream(first, events))

    async def _embed(self, request: Request) -> Response:
        parsed = parse_embedding_request(await read_json_body(request))
        batches = self._embedding_queue.stream(partial(self._embedder.embed, parsed.texts))
        return JSONResponse(
            embedding_response(await _while_connected(request, _collect(batches)), parsed)
        )

    async def _vector_stores(self, request: Request) -> Response:
        service = self._documents()
        return JSONResponse(await asyncio.to_thread(documents.list_response, service))

    async def _search(self, request: Request) -> Response:
        parsed = parse_search_request(await read_json_body(request))
        factory = partial(documents.search, self._documents(), request.path_params["name"], parsed)
        results = self._embedding_queue.stream(factory)  # it embeds the query
        (passages,) = await _while_connected(request, _collect(results))
        return JSONResponse(search_response(passages, parsed))

    def _documents(self) -> Documents:
        try:
            return self._chats.service(documents.SERVICE, Documents)
        except UsageError as error:
            raise as_api_error(error) from error

    async def _available_setups(self) -> dict[str, Setup]:
        """Return the set-ups that can be combined with the served model.

        The list is cached briefly, since building it takes as long as generating a few tokens.
        """
        async with self._setups_lock:
            if time.monotonic() - self._setups_listed_at > SETUPS_TTL_SECONDS:
                setups = await asyncio.to_thread(self._chats.available_setups)
                self._setups = {name: setup for name, setup in setups.items() if not setup.model}
                self._setups_listed_at = time.monotonic()
        return self._setups


class EventStream(StreamingResponse):
    """A response of server-sent events that closes its generator when the client disconnects.

    Args:
        events: the formatted events.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, and close the generator at the end."""
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


async def _while_connected(request: Request, coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the coroutine's result; cancel it if the client disconnects.

    Raises:
        ClientDisconnect: the client disconnected.
        ApiError: the coroutine failed.
    """
    task = asyncio.create_task(coroutine)
    disconnected = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait((task, disconnected), return_when=asyncio.FIRST_COMPLETED)
    finally:
        disconnected.cancel()
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
    problem = {404: "Not found:", 405: "Method not allowed:"}.get(status, "Request failed:")
    return error_response(ApiError(status, f"{problem} {request.url.path}"))


async def _handle_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


class ApiServer(uvicorn.Server):
    """An HTTP server that ends open streams on shutdown.

    Args:
        api: the API to serve.
        loopback: see `GuardMiddleware`.
        token: see `GuardMiddleware`.
        max_connections: maximum number of open connections; fewer if descriptors are scarce.
        receive_seconds: time for a client to send its request.
    """

    def __init__(
        self,
        api: Api,
        *,
        loopback: bool,
        token: str,
        max_connections: int,
        receive_seconds: float,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                api.app(loopback=loopback, token=token),
                http=limited_protocol(connection_limit(max_connections), receive_seconds),
                backlog=BACKLOG,
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
        """Serve until SIGINT or SIGTERM, and return once the engine is idle."""
        try:
            super().run(sockets)
        finally:
            self._api.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening."""
        asyncio.get_running_loop().set_exception_handler(quiet_accept_errors())
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cancel all replies, then shut down."""
        self._api.stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals like uvicorn, but do not raise them again at the end."""
        previous = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
