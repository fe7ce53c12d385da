"""The API: its routes, for each protocol, and its error responses."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chatlm import SideChats, __version__, one_line
from chatlm_serve import openapi, status_page
from chatlm_serve.errors import ApiError, as_api_error
from chatlm_serve.http_guard import HEALTH_PATH, ErrorFormats, GuardMiddleware
from chatlm_serve.protocols import (
    anthropic_messages,
    ollama_chat,
    ollama_fields,
    ollama_models,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_models,
    openai_responses,
    rerank,
    vector_stores,
)
from chatlm_serve.protocols.openai_embeddings import EmbeddingService
from chatlm_serve.protocols.openai_errors import error_body
from chatlm_serve.reply_service import ReplyService

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that disconnected; nobody receives it."""


class Api:
    """The endpoints of all protocols; call `stop` and then `close` at the end.

    Args:
        chats: creates the chats that answer requests; its model is loaded at once.
        max_waiting: maximum number of requests that wait.
        max_running: maximum number of requests answered concurrently, if the engine can.
        keep_seconds: how long other models are kept while nobody uses them.
    """

    def __init__(
        self, chats: SideChats, max_waiting: int, max_running: int, keep_seconds: float
    ) -> None:
        self.replies = ReplyService(chats, max_waiting, max_running, keep_seconds)
        self._embeddings = EmbeddingService(max_waiting)
        self._errors = ErrorFormats(
            error_body,
            {
                ollama_fields.ERROR_PREFIX: ollama_fields.error_body,
                anthropic_messages.PATH: anthropic_messages.error_body,
            },
            self.replies.journal,
        )

    def app(self, *, loopback: bool, token: str) -> Starlette:
        """Create the ASGI app; the arguments are those of `GuardMiddleware`."""
        return Starlette(
            routes=[
                Route(HEALTH_PATH, _health),
                *status_page.routes(self.replies),
                *openai_models.routes(self.replies),
                *openai_chat.routes(self.replies),
                *openai_responses.routes(self.replies),
                *openai_completions.routes(self.replies),
                *openai_embeddings.routes(self._embeddings),
                *rerank.routes(self._embeddings.queue),
                *anthropic_messages.routes(self.replies),
                *ollama_chat.routes(self.replies),
                *ollama_models.routes(self.replies, self._embeddings),
                *openapi.routes(__version__),
                *vector_stores.routes(self.replies.chats, self._embeddings.queue),
            ],
            middleware=[
                Middleware(GuardMiddleware, loopback=loopback, token=token, errors=self._errors)
            ],
            exception_handlers={
                HTTPException: self._handle_http_error,
                ClientDisconnect: _handle_disconnect,
                ApiError: self._handle_error,
                Exception: self._handle_error,
            },
        )

    def stop(self) -> None:
        """Cancel all replies; call it in the event loop's thread."""
        self.replies.stop()
        self._embeddings.stop()

    def close(self) -> None:
        """Wait until all computation has ended; call `stop` first."""
        self.replies.close()
        self._embeddings.close()

    async def _handle_error(self, request: Request, error: Exception) -> Response:
        return self._errors.response(as_api_error(error), request.url.path)

    async def _handle_http_error(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        problem = {404: "Not found:", 405: "Method not allowed:"}.get(status, "Request failed:")
        path = request.url.path
        return self._errors.response(ApiError(status, f"{problem} {one_line(path, 80)}"), path)


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _handle_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)
