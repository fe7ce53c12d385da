"""HTTP and SSE client with retries on its own event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import httpx2

from chatlm import EngineError, __version__
from chatlm_openai import protocol
from chatlm_openai.endpoints import Endpoint
from chatlm_openai.errors import ErrorMessages, HttpRefusal, failure_from_body
from chatlm_openai.protocol import ChatCompletionChunk, RemoteModel
from chatlm_openai.settings import Settings

MAX_RESPONSE_BYTES = 8 * 2**20
"""Of an answer that is not streamed; the longest known list of models takes one."""


FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.5, 8.0
"""Seconds before a busy server is asked again; each time twice as long."""


CONNECT_RETRY_SECONDS = (0.1, 0.3)
"""Seconds before a server that could not be reached is tried again, such as one that restarts."""


USAGE_SECONDS = 5.0
"""How long a server may take, after a reply's end, to say what it cost."""


DONE_MARKER = "[DONE]"


class ServerClient:
    """Its methods run in one event loop; each request has a connection of its own, which is closed
    as soon as the request is cancelled.

    Args:
        endpoint: where it is.
        settings: how long to wait for it.

    Raises:
        UsageError: its key cannot be one.
    """

    def __init__(self, endpoint: Endpoint, settings: Settings) -> None:
        key = endpoint.key()
        self.error_messages = ErrorMessages(endpoint, key)
        self._settings = settings
        self._rejected_fields: set[str] = set()
        """Fields that it does not take, see `body.without`."""
        headers = {"User-Agent": f"chatlm/{__version__}", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx2.AsyncClient(
            base_url=endpoint.url,
            headers=headers,
            timeout=httpx2.Timeout(None, connect=settings.connect_seconds),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def list_models(self) -> list[RemoteModel]:
        """The models it has.

        Raises:
            EngineError: as `listed`, or it has no list.
        """
        found = await self.try_list_models()
        if found is None:
            raise self.error_messages.not_openai_compatible()
        return found

    async def try_list_models(self) -> list[RemoteModel] | None:
        """The models it has; None where there is no list of them.

        Raises:
            EngineError: it cannot be reached, refuses, or does not speak the protocol.
        """
        try:
            with self._translate_errors("between_seconds"):
                return protocol.parse_models(await self._get("models"))
        except HttpRefusal as refusal:
            if refusal.status in (404, 405):
                return None
            raise self.error_messages.refusal_error(refusal, "", {}) from refusal

    async def post(self, path: str, body: dict[str, Any]) -> None:
        """Ask for something else than a reply.

        Args:
            path: below the base URL.
            body: the body of the request.

        Raises:
            Refusal: it is not done.
            EngineError: the server cannot be reached, or says nothing.
        """
        with self._translate_errors("first_token_seconds"):
            async with (
                asyncio.timeout(self._settings.first_token_seconds),
                self._client.stream("POST", path, json=body) as response,
            ):
                if response.status_code != 200:
                    raise await self._read_refusal(response)

    async def stream_completion(
        self, body: dict[str, Any], on_chunk: Callable[[ChatCompletionChunk], None]
    ) -> None:
        """Ask for one reply.

        Args:
            body: the body of the request.
            on_chunk: gets the pieces as they come; the last says why the reply ended.

        Raises:
            EngineError: there was none, or it ended in the middle.
            ContextTooLong: it does not fit the model's context.
        """
        body = protocol.drop_fields(body, self._rejected_fields)
        refused_waits, waited, wait = list(CONNECT_RETRY_SECONDS), 0.0, FIRST_RETRY_SECONDS
        while True:
            try:
                await self._stream_once(body, on_chunk)
                return
            except httpx2.ConnectError as error:
                if not refused_waits:
                    raise self.error_messages.unreachable(error) from error
                await asyncio.sleep(refused_waits.pop(0))
            except HttpRefusal as refusal:
                if (other := self._fallback_body(body, refusal)) != body:
                    body = other
                    continue
                after = refusal.retry_after
                pause = wait if after is None else max(after, FIRST_RETRY_SECONDS)
                patience = self._settings.patience_seconds - waited
                if not refusal.is_transient or pause > patience:
                    raise await self._refusal_error(refusal, body) from refusal
                waited, wait = waited + pause, min(2 * wait, MAX_RETRY_SECONDS)
                await asyncio.sleep(pause)

    async def _stream_once(
        self, body: dict[str, Any], on_chunk: Callable[[ChatCompletionChunk], None]
    ) -> None:
        """Ask once; raises `Refusal` and `httpx2.ConnectError` before anything was taken."""
        begun = ended = False
        settings, loop = self._settings, asyncio.get_running_loop()
        try:
            async with (
                asyncio.timeout(settings.first_token_seconds) as limit,
                self._client.sse("chat/completions", method="POST", json=body) as source,
            ):
                if source.response.status_code != 200:
                    raise await self._read_refusal(source.response)
                async for event in source:
                    if event.data.strip() == DONE_MARKER:
                        break
                    if not event.data.strip():
                        continue
                    piece = protocol.parse_chunk(event.data)
                    begun = begun or bool(piece.text or piece.has_reasoning)
                    ended = ended or bool(piece.finish_reason)
                    if begun or ended:
                        patience = USAGE_SECONDS if ended else settings.between_seconds
                        limit.reschedule(loop.time() + patience)
                    on_chunk(piece)
        except httpx2.ConnectError:
            raise
        except TimeoutError as error:
            if not ended:
                setting = "between_seconds" if begun else "first_token_seconds"
                raise self._timeout_error(setting, reply_started=begun) from error
        except protocol.StreamFailed as error:
            raise self.error_messages.failed_mid_reply(error.failure) from error
        except (protocol.ProtocolError, httpx2.SSEError) as error:
            raise self.error_messages.invalid_response(str(error).rstrip(".")) from error
        except (httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise self.error_messages.unreachable(error) from error
        except httpx2.HTTPError as error:
            if not ended:
                raise self.error_messages.incomplete_reply(reply_started=begun) from error
        if not ended:
            raise self.error_messages.incomplete_reply(reply_started=begun)

    async def _get(self, path: str) -> bytes:
        async with (
            asyncio.timeout(self._settings.between_seconds),
            self._client.stream("GET", path) as response,
        ):
            if response.status_code != 200:
                raise await self._read_refusal(response)
            return await _read_content(response)

    @contextmanager
    def _translate_errors(self, timeout_setting: str) -> Iterator[None]:
        """Tell what goes wrong with a request that is not streamed, but for a refusal.

        Args:
            timeout_setting: the setting that says how long it may take.
        """
        try:
            yield
        except protocol.ProtocolError as error:
            raise self.error_messages.invalid_response(str(error)) from error
        except httpx2.HTTPError as error:
            raise self.error_messages.unreachable(error) from error
        except TimeoutError as error:
            raise self._timeout_error(timeout_setting) from error

    def _timeout_error(self, timeout_setting: str, *, reply_started: bool = False) -> EngineError:
        return self.error_messages.timed_out(
            timeout_setting, getattr(self._settings, timeout_setting), reply_started=reply_started
        )

    async def _read_refusal(self, response: httpx2.Response) -> HttpRefusal:
        return HttpRefusal(
            response.status_code, failure_from_body(await _read_content(response)), response.headers
        )

    def _fallback_body(self, body: dict[str, Any], refusal: HttpRefusal) -> dict[str, Any]:
        """The same in another way after fields were refused, which is remembered."""
        if refusal.status not in (400, 422):
            return body
        named = refusal.named_fields(body)
        other = protocol.drop_fields(body, named)
        if other != body:
            self._rejected_fields |= set(named)
        return other

    async def _refusal_error(self, refusal: HttpRefusal, body: dict[str, Any]) -> EngineError:
        """The error for a refusal; after a 404 the server's models tell what was not found."""
        if refusal.status == 404:
            there: list[RemoteModel] = []
            with suppress(EngineError):
                there = await self.list_models()
            if not there:
                return self.error_messages.not_openai_compatible()
            if body["model"] not in {model.name for model in there}:
                return self.error_messages.unknown_model(
                    body["model"], [model.name for model in there]
                )
        return self.error_messages.refusal_error(refusal, body["model"], body)


async def _read_content(response: httpx2.Response) -> bytes:
    """The body of an answer, as far as it is not too long."""
    content = b""
    async for part in response.aiter_raw():
        content += part
        if len(content) > MAX_RESPONSE_BYTES:
            raise protocol.ProtocolError("its answer has no end")
    return content


T = TypeVar("T")


class EventLoopThread:
    """The thread is a daemon: a program that ends does not wait for a server."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="chatlm-openai", daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin something; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Do something and wait for it; an interrupt cancels it."""
        future = self.submit(coroutine)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """Cancel all that goes on, and end the thread."""
        if self._thread.is_alive():
            self.run(_cancel_others())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
