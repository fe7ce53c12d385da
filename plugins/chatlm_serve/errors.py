"""What a client is told when something is wrong, in the form that OpenAI's API has."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from chatlm import ChatlmError, ContextTooLong, UsageError
from chatlm_serve.work_queue import QueueFull, ShuttingDown

log = logging.getLogger(f"chatlm.plugins.{__name__}")

RETRY_SECONDS = 1
"""After which one who was turned away may try again."""


class ApiError(Exception):
    """A request that is answered by an error.

    Args:
        status: of HTTP.
        message: what was wrong, and what to do.
        param: the field of the request that is wrong.
        code: what programs go by.
        headers: sent with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = "rate_limit_error"
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }


def field_error(param: str, message: str, code: str | None = None) -> ApiError:
    """The error for a field of the request."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of any failure; one that nobody foresaw is in the log alone."""
    match error:
        case ApiError():
            return error
        case QueueFull():
            return ApiError(
                429,
                "The server is busy. Try again in a moment.",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        case ShuttingDown():
            return ApiError(503, "The server is shutting down.", code="shutting_down")
        case ContextTooLong():
            return ApiError(400, str(error), param="messages", code="context_length_exceeded")
        case UsageError():
            return ApiError(400, str(error))
        case ChatlmError():
            log.error("a request failed: %s", error)
            return ApiError(500, str(error))
    log.error("a request failed", exc_info=error)
    return ApiError(500, "The server failed. Its log has the details: chatlm logs")
