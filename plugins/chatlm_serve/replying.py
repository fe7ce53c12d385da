"""Answer an HTTP request with replies, whole or streamed, in a protocol's format."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from chatlm_serve.errors import ApiError, as_api_error
from chatlm_serve.generation_request import GenerationRequest
from chatlm_serve.http_guard import read_json_body
from chatlm_serve.reply_events import ReplyEvent, WholeReply
from chatlm_serve.reply_service import ChoiceEvents, ReplyService

T = TypeVar("T")

SSE = "text/event-stream"
"""Media type of server-sent events."""


class ReplyFormat(Protocol):
    """A protocol's format of the replies to one request; a stream is joined from its texts."""

    media_type: str
    """Media type of a stream."""

    def whole(self, replies: Sequence[WholeReply]) -> dict[str, Any]:
        """Return the body of a response that comes whole."""
        ...

    def begin(self) -> str:
        """Return how a stream begins."""
        ...

    def event(self, choice: int, event: ReplyEvent) -> str:
        """Return the text of an event of one of the replies; may be empty."""
        ...

    def end(self) -> str:
        """Return how a stream ends after the last event of all replies."""
        ...

    def failure(self, error: ApiError) -> str:
        """Return how a stream ends that failed."""
        ...


ParseRequest = Callable[[Mapping[str, Any]], tuple[GenerationRequest, ReplyFormat]]
"""`(body) -> request, format`; raises `ApiError` for a body that it cannot serve."""


def reply_route(path: str, service: ReplyService, parse: ParseRequest) -> Route:
    """Return an endpoint that answers with replies.

    Args:
        path: of the endpoint.
        service: generates the replies.
        parse: reads the body of a request.
    """

    async def reply(request: Request) -> Response:
        return await reply_to(request, await read_json_body(request), service, parse)

    return Route(path, reply, methods=["POST"])


async def reply_to(
    request: Request, body: Mapping[str, Any], service: ReplyService, parse: ParseRequest
) -> Response:
    """Answer a request with replies.

    Args:
        request: the HTTP request.
        body: its body.
        service: generates the replies.
        parse: reads the body.

    Raises:
        ApiError: it cannot be answered.
        ClientDisconnect: the client disconnected.
    """
    service.check_capacity(body.get("model"))  # before parsing, so that rejected ones cost little
    asked, form = await asyncio.to_thread(parse, body)  # a large schema takes its time
    events = await service.generate(asked)
    if not asked.stream:
        whole = await while_connected(request, _collect(events, asked.choices))
        return JSONResponse(form.whole(whole))
    first = await while_connected(request, _next(events))  # its error can still set the status
    record = partial(service.journal.record, path=request.url.path)
    return EventStream(_format(first, events, form, record), form.media_type)


async def _collect(events: ChoiceEvents, choices: int) -> list[WholeReply]:
    replies = [WholeReply() for _ in range(choices)]
    async with aclosing(events):
        async for choice, event in events:
            replies[choice].add(event)
    return replies


async def collect(items: AsyncGenerator[T, None]) -> list[T]:
    """Return all items of a generator."""
    async with aclosing(items):
        return [item async for item in items]


async def _next(events: AsyncGenerator[T, None]) -> T:
    return await anext(events)


async def _format(
    first: tuple[int, ReplyEvent],
    rest: ChoiceEvents,
    form: ReplyFormat,
    record: Callable[[ApiError], None],
) -> AsyncGenerator[str, None]:
    """Yield the texts of a stream; an error is the last one, and recorded."""
    async with aclosing(rest):
        yield form.begin()
        try:
            if text := form.event(*first):
                yield text
            async for choice, event in rest:
                if text := form.event(choice, event):
                    yield text
        except Exception as error:
            failure = as_api_error(error)
            record(failure)
            yield form.failure(failure)
            return
    yield form.end()


class EventStream(StreamingResponse):
    """A streamed response that closes its generator when the client disconnects.

    Args:
        texts: the formatted events; empty ones are not sent.
        media_type: such as `SSE`.
    """

    def __init__(self, texts: AsyncGenerator[str, None], media_type: str) -> None:
        super().__init__(texts, headers={"Cache-Control": "no-cache"}, media_type=media_type)
        self._texts = texts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, and close the generator at the end."""
        async with aclosing(self._texts):
            await super().__call__(scope, receive, send)


async def while_connected(request: Request, coroutine: Coroutine[Any, Any, T]) -> T:
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


def server_sent_event(value: Mapping[str, Any], name: str = "") -> str:
    """Format a server-sent event.

    Args:
        value: its data, as JSON.
        name: its name; empty for none.
    """
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value, ensure_ascii=False)}\n\n"
