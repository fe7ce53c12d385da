"""Errors of the API, which each protocol formats."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from chatlm import (
    ChatlmError,
    ContentFiltered,
    ContextTooLong,
    ContinuationUnsupported,
    UsageError,
    one_line,
)
from chatlm_serve.work_queue import QueueFull, ShuttingDown

log = logging.getLogger(f"chatlm.plugins.{__name__}")

MAX_RECORDED = 20
"""How many errors the status page shows."""

RETRY_SECONDS = 1
"""Value of `Retry-After` for a client rejected because the server is busy."""


class ApiError(Exception):
    """An error response.

    Args:
        status: HTTP status.
        message: what is wrong, and what to do.
        param: the invalid field of the request.
        code: machine-readable code.
        headers: further HTTP headers.
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


@dataclass(frozen=True)
class RecordedError:
    """An error that a client got."""

    time: float
    """In seconds since 1970."""
    path: str
    status: int
    message: str


class ErrorJournal:
    """The newest errors that clients got, for the status page."""

    def __init__(self) -> None:
        self.newest: deque[RecordedError] = deque(maxlen=MAX_RECORDED)
        """Newest last."""

    def record(self, error: ApiError, path: str) -> None:
        """Add an error."""
        message = one_line(error.message, 300)
        self.newest.append(RecordedError(time.time(), one_line(path, 80), error.status, message))


def field_error(param: str, message: str, code: str | None = None) -> ApiError:
    """Create the error for an invalid field of the request."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def as_api_error(error: Exception) -> ApiError:
    """Convert any exception; details of an unexpected one are only logged."""
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
        case ContentFiltered():
            return ApiError(400, str(error), param="messages", code="content_filter")
        case UsageError() | ContinuationUnsupported():
            return ApiError(400, str(error))
        case ChatlmError():
            log.error("a request failed: %s", error)
            return ApiError(500, str(error))
    log.error("a request failed", exc_info=error)
    return ApiError(500, "Internal server error. See the server's log: chatlm logs")
