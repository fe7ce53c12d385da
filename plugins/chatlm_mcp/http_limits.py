"""HTTP with a limit for the size of a response that is read as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

from chatlm_mcp.limits import MAX_MESSAGE_BYTES, McpServerError


class LimitedTransport(httpx2.AsyncHTTPTransport):
    """Fails when a response becomes too large; those of events are limited event by event."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; its response's body is limited."""
        response = await super().handle_async_request(request)
        if "text/event-stream" in response.headers.get("content-type", ""):
            return response
        stream = response.stream
        assert isinstance(stream, httpx2.AsyncByteStream)  # noqa: S101
        response.stream = _LimitedStream(stream)
        return response


class _LimitedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for data in self._stream:
            size += len(data)
            if size > MAX_MESSAGE_BYTES:
                raise McpServerError(
                    f"it sent a response of more than {MAX_MESSAGE_BYTES // 1_000_000} MB"
                )
            yield data

    async def aclose(self) -> None:
        await self._stream.aclose()
