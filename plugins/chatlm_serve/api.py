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

from chatlm import Setup, SideChats, open_batch
from chatlm_serve import embeddings
from chatlm_serve.completions import JOINT, Events, Reply, generate, listed, read_params, setup_of
from chatlm_serve.embeddings import Embedder, body_of, read_wanted
from chatlm_serve.errors import ApiError, as_api_error
from chatlm_serve.http_guard import HEALTH, Guard, json_body, response
from chatlm_serve.work_queue import Busy, Line, SharedBatch, Stopping

T = TypeVar("T")


FRESH_SECONDS = 2.0
"""So old may the list of set-ups be."""


CLIENT_GONE = 499
"""A status that nobody gets to see, as nginx has it."""


class Api:
    """What the addresses do. `stop` and `close` it at the end.

    Args:
        chats: by which requests are answered; its model is loaded now.
        queue: how many requests may wait while others are answered.
        at_once: how many are answered at once, if the engine can do that.
    """

    def __init__(self, chats: SideChats, queue: int, at_once: int) -> None:
        self._chats = chats
        engine = chats.begin(Setup()).engine
        info = engine.info
        self.model = info.model
        self._context = info.context_length
        self._embedder = Embedder()
        self._listing = asyncio.Lock()
        self._listed: dict[str, Setup] = {}
        self._listed_at = -FRESH_SECONDS
        batch = open_batch(engine)
        self._batch = SharedBatch(batch)
        self._replies = Line(queue, min(at_once, batch.at_once))
        self._embeddings = Line(queue)

    def app(self, *, loopback: bool, token: str) -> Starlette:
        """The ASGI app; arguments as of `Guard`."""
        return Starlette(
            routes=[
                Route(HEALTH, self._health),
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat_completions, methods=["POST"]),
                Route("/v1/embeddings", self._embed, methods=["POST"]),
            ],
            middleware=[Middleware(Guard, loopback=loopback, token=token)],
            exception_handlers={
                HTTPException: _http_error,
                ClientDisconnect: _client_gone,
                ApiError: _error,
                Exception: _error,
            },
        )

    def stop(self) -> None:
        """End all replies; for the event loop's thread."""
        self._replies.stop()
        self._embeddings.stop()

    def close(self) -> None:
        """Wait until nothing is computed any more; call `stop` before."""
        self._replies.close()
        self._batch.close()
        self._embeddings.close()

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _models(self, request: Request) -> Response:
        offered = await self._offered()
        about = {"object": "model", "created": 0, "owned_by": "chatlm"}
        chat = about | {"max_model_len": self._context}  # as vLLM calls it
        models = [
            {"id": name}
            | chat
            | ({"parent": self.model} if JOINT in name.removeprefix(self.model) else {})
            for name in listed(self.model, offered)
        ]
        if embeddings.is_here():
            models.append({"id": embeddings.MODEL} | about)
        return JSONResponse({"object": "list", "data": models})

    async def _chat_completions(self, request: Request) -> Response:
        try:  # whoever is turned away takes no time from those who are answered
            self._replies.check()
        except (Busy, Stopping) as error:
            raise as_api_error(error) from error
        params = read_params(await json_body(request), self._context)
        setup = Setup()
        if params.model != self.model:
            setup = setup_of(params.model, self.model, await self._offered())
        reply = Reply(params)
        begin = partial(generate, self._chats, self._batch, setup, params)
        events: Events = self._replies.events(begin)
        if not params.stream:
            return JSONResponse(await _while_connected(request, reply.whole(events)))
        first = await _while_connected(request, _next(events))  # until then it can fail as a whole
        return EventStream(reply.pieces(first, events))

    async def _embed(self, request: Request) -> Response:
        wanted = read_wanted(await json_body(request))
        parts = self._embeddings.events(partial(self._embedder.embed, wanted.texts))
        return JSONResponse(body_of(await _while_connected(request, _all(parts)), wanted))

    async def _offered(self) -> dict[str, Setup]:
        """The set-ups that can be joined to the served model, as they were a moment ago.

        To list them takes as long as some tokens.
        """
        async with self._listing:
            if time.monotonic() - self._listed_at > FRESH_SECONDS:
                offered = await asyncio.to_thread(self._chats.offered)
                self._listed = {name: setup for name, setup in offered.items() if not setup.model}
                self._listed_at = time.monotonic()
        return self._listed


class EventStream(StreamingResponse):
    """Server-sent events, whose generator is closed when the client is gone.

    Args:
        pieces: the events.
    """

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[str, None]) -> None:
        super().__init__(pieces, headers={"Cache-Control": "no-cache"})
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `StreamingResponse`."""
        async with aclosing(self._pieces):
            await super().__call__(scope, receive, send)


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; a client that goes away ends it.

    Raises:
        ClientDisconnect: it went away.
        ApiError: the work failed.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(request))
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


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _next(events: AsyncGenerator[T, None]) -> T:
    return await anext(events)


async def _all(events: AsyncGenerator[T, None]) -> list[T]:
    async with aclosing(events):
        return [event async for event in events]


async def _error(request: Request, error: Exception) -> Response:
    return response(as_api_error(error))


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: "There is nothing at", 405: "This method is not for"}
    return response(ApiError(status, f"{words.get(status, 'Failed:')} {request.url.path}"))


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


PATIENCE = 5
"""Seconds for streams to end in when the server is told to."""


class Server(uvicorn.Server):
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
                timeout_graceful_shutdown=PATIENCE,
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
