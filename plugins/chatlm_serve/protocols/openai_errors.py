"""Errors in OpenAI's format."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from chatlm_serve.errors import ApiError


def error_body(error: ApiError) -> dict[str, Any]:
    """Return the body of an error response, which also ends a stream that failed."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    if error.status == HTTPStatus.TOO_MANY_REQUESTS:
        kind = "rate_limit_error"
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }
