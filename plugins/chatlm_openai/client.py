"""HTTP client of one server: streamed completions with retries, and the event loop it runs in."""

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
"""Limit for a response that is not streamed; the longest known list of models takes 1 MiB."""


FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.5, 8.0
"""Exponential backoff for a busy server."""


CONNECT_RETRY_SECONDS = (0.1, 0.3)
"""Delays before a refused connection is tried again, for a server that is restarting."""


USAGE_SECONDS = 5.0
"""Time limit for the usage chunk after the end of a reply."""


DONE_MARKER = "[DONE]"


ERROR_EVENT = "error"
"""Type of a server-sent event that reports an error; those of a reply have none."""


class ServerClient:
    """Client of one server. All methods must run in the same event loop.

    Each request has its own connection, which is closed as soon as the request is cancelled.

    Args:
        endpoint: URL and key.
        settings: timeouts.

    Raises:
        UsageError: the key contains invalid characters.
    """

    def __init__(self, endpoint: Endpoint, settings: Settings) -> None:
        key = endpoint.key()
        self.error_messages = ErrorMessages(endpoint, key)
        self._settings = settings
        self._rejected_fields: set[str] = set()
        """Fields that the server rejected; see `protocol.drop_fields`."""
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
        """List the models of the server.

        Raises:
            EngineError: as `try_list_models`, or the server has no list of models.
        """
        models = await self.try_list_models()
        if models is None:
            raise self.error_messages.not_openai_compatible()
        return models

    async def try_list_models(self) -> list[RemoteModel] | None:
        """List the models of the server; None if it does not provide a list.

        Raises:
            EngineError: it cannot be reached, refuses, or is not OpenAI-compatible.
        """
        try:
            with self._translate_errors("between_seconds"):
                return protocol.parse_models(await self._get("models"))
        except HttpRefusal as refusal:
            if refusal.status in (404, 405):
                return None
            raise self.error_messages.refusal_error(refusal, "", {}) from refusal

    async def post(self, path: str, body: dict[str, Any]) -> None:
        """Send a request whose response has no content.

        Args:
            path: below the base URL.
            body: JSON body.

        Raises:
            HttpRefusal: the status is not 200.
            EngineError: the server cannot be reached, or does not respond in time.
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
        """Stream one reply, with retries until its first chunk.

        Args:
            body: JSON body of the request.
            on_chunk: called with each chunk; the last one has a finish reason or the usage.

        Raises:
            EngineError: there was no reply, or it is incomplete.
            ContextTooLong: the prompt does not fit the model's context window.
        """
        body = protocol.drop_fields(body, self._rejected_fields)
        connect_delays, waited, backoff = list(CONNECT_RETRY_SECONDS), 0.0, FIRST_RETRY_SECONDS
        while True:
            try:
                await self._stream_once(body, on_chunk)
                return
            except httpx2.ConnectError as error:
                if not connect_delays:
                    raise self.error_messages.unreachable(error) from error
                await asyncio.sleep(connect_delays.pop(0))
            except HttpRefusal as refusal:
                if (fallback := self._fallback_body(body, refusal)) != body:
                    body = fallback
                    continue
                retry_after = refusal.retry_after
                delay = backoff if retry_after is None else max(retry_after, FIRST_RETRY_SECONDS)
                time_left = self._settings.patience_seconds - waited
                if not refusal.is_transient or delay > time_left:
                    raise await self._refusal_error(refusal, body) from refusal
                waited, backoff = waited + delay, min(2 * backoff, MAX_RETRY_SECONDS)
                await asyncio.sleep(delay)

    async def _stream_once(
        self, body: dict[str, Any], on_chunk: Callable[[ChatCompletionChunk], None]
    ) -> None:
        """Stream one reply without retries.

        Raises:
            HttpRefusal, httpx2.ConnectError: before the first chunk.
            EngineError: anything else went wrong.
        """
        started = ended = False
        settings, loop = self._settings, asyncio.get_running_loop()
        try:
            async with (
                asyncio.timeout(settings.first_token_seconds) as limit,
                self._client.sse("chat/completions", method="POST", json=body) as source,
            ):
                if source.response.status_code != 200:
                    raise await self._read_refusal(source.response)
                await _check_for_error_body(source.response)
                async for event in source:
                    if event.data.strip() == DONE_MARKER:
                        break
                    if event.event == ERROR_EVENT:
                        raise protocol.StreamFailed(failure_from_body(event.data.encode()))
                    if not event.data.strip():
                        continue
                    chunk = protocol.parse_chunk(event.data)
                    started = started or chunk.has_content
                    ended = ended or bool(chunk.finish_reason)
                    if started or ended:
                        timeout = USAGE_SECONDS if ended else settings.between_seconds
                        limit.reschedule(loop.time() + timeout)
                    on_chunk(chunk)
                    if chunk.finish_reason.lower() in protocol.FAILED_REASONS:
                        raise protocol.StreamFailed(
                            protocol.ServerFailure(f"finish_reason is {chunk.finish_reason}")
                        )
        except httpx2.ConnectError:
            raise
        except TimeoutError as error:
            if not ended:
                setting = "between_seconds" if started else "first_token_seconds"
                raise self._timeout_error(setting, reply_started=started) from error
        except protocol.StreamFailed as error:
            raise self.error_messages.failed_mid_reply(error.failure) from error
        except (protocol.ProtocolError, httpx2.SSEError) as error:
            raise self.error_messages.invalid_response(str(error).rstrip(".")) from error
        except (httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise self.error_messages.unreachable(error) from error
        except httpx2.HTTPError as error:
            if not ended:
                raise self.error_messages.incomplete_reply(reply_started=started) from error
        if not ended:
            raise self.error_messages.incomplete_reply(reply_started=started)

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
        """Translate errors of a request that is not streamed, except refusals.

        Args:
            timeout_setting: name of the setting with its timeout.
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
        """Return the body without the rejected fields, and remember them for later requests."""
        if refusal.status not in (400, 422):
            return body
        rejected = refusal.named_fields(body)
        fallback = protocol.drop_fields(body, rejected)
        if fallback != body:
            self._rejected_fields |= set(rejected)
        return fallback

    async def _refusal_error(self, refusal: HttpRefusal, body: dict[str, Any]) -> EngineError:
        """Return the error for a refusal; after a 404, the list of models tells what is missing."""
        if refusal.status == 404:
            models: list[RemoteModel] = []
            with suppress(EngineError):
                models = await self.list_models()
            if not models:
                return self.error_messages.not_openai_compatible()
            if body["model"] not in {model.name for model in models}:
                return self.error_messages.unknown_model(
                    body["model"], [model.name for model in models]
                )
        return self.error_messages.refusal_error(refusal, body["model"], body)


async def _check_for_error_body(response: httpx2.Response) -> None:
    """Raise the error that some servers and proxies send as JSON with status 200.

    Raises:
        StreamFailed: there is one.
    """
    if not response.headers.get("content-type", "").startswith("application/json"):
        return
    content = await _read_content(response)
    values = protocol.parse_json(content)
    if isinstance(values, dict) and values.get("error"):
        raise protocol.StreamFailed(protocol.parse_failure(values))
    raise protocol.ProtocolError("it is not streamed")


async def _read_content(response: httpx2.Response) -> bytes:
    """Read the body of a response, up to `MAX_RESPONSE_BYTES`."""
    content = b""
    async for data in response.aiter_raw():
        content += data
        if len(content) > MAX_RESPONSE_BYTES:
            raise protocol.ProtocolError("its response is too long")
    return content


T = TypeVar("T")


class EventLoopThread:
    """An event loop in a daemon thread, so that the program can exit without waiting for it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="chatlm-openai", daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for its result; an interrupt cancels it."""
        future = self.submit(coroutine)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """Cancel all coroutines and stop the thread."""
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
