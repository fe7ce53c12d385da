"""Error messages for failures of a server, each with a hint."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import httpx2

from chatlm import (
    ContentFiltered,
    ContextTooLong,
    ContinuationUnsupported,
    EngineError,
    Sampling,
    one_line,
)
from chatlm_openai import protocol
from chatlm_openai.endpoints import Endpoint
from chatlm_openai.protocol import (
    CONTINUE_FIELDS,
    LOGPROB_FIELDS,
    THINKING_FIELDS,
    ServerFailure,
)

_BUSY_STATUSES = (429, 502, 503)


_QUOTA_CODE = "insufficient_quota"
"""OpenAI's code for an exhausted quota, which also has status 429 but is not transient."""


MAX_QUOTED_CHARS = 300
"""Limit for a quoted server message."""


MAX_NAMED_MODELS = 8
"""Limit for the models named in an error."""


_TOO_LONG_PATTERN = re.compile(
    r"context[ _](length|size|window)|longer than the model|too many tokens|inputs.? tokens",
    re.IGNORECASE,
)


_FILTERED_PATTERN = re.compile(
    r"content_filter|content_policy|ResponsibleAI|data_inspection_failed|content management policy"
    r"|input was flagged",
    re.IGNORECASE,
)
"""Codes and messages with which OpenAI, Azure, OpenRouter and Alibaba refuse what a user wrote."""


_SAMPLING_FIELDS = tuple(Sampling().settings())


class HttpRefusal(Exception):
    """A response with an HTTP status other than 200.

    Args:
        status: HTTP status.
        failure: the error in the body.
        headers: response headers.
    """

    def __init__(self, status: int, failure: ServerFailure, headers: Mapping[str, str]) -> None:
        super().__init__(status)
        self.status = status
        self.failure = failure
        self.headers = headers

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in _BUSY_STATUSES and _QUOTA_CODE not in self.failure.codes

    @property
    def retry_after(self) -> float | None:
        """Seconds from the `Retry-After` header; None without a valid one."""
        try:
            seconds = float(self.headers.get("retry-after", ""))
        except ValueError:
            return None
        return seconds if 0 <= seconds < 10**6 else None

    def named_fields(self, body: Mapping[str, Any]) -> list[str]:
        """Return the fields that the error names: of the body, or `max_completion_tokens`."""
        fields = [*body, "max_completion_tokens"]
        text = f"{self.failure.message} {self.failure.codes}"
        return [name for name in fields if re.search(rf"\b{re.escape(name)}\b", text)]


@dataclass(frozen=True)
class ErrorMessages:
    """Factory of the errors about one server.

    Args:
        endpoint: the server.
        key: its API key, which is never shown, not even in a quoted server message.
    """

    endpoint: Endpoint
    key: str = field(repr=False)

    @property
    def server_label(self) -> str:
        """The endpoint's name and URL."""
        name, url = self.endpoint.name, self.endpoint.url
        return f"{name} ({url})" if name else url

    def sanitize(self, text: str) -> str:
        """Make a server's message safe to show: one line, limited length, without the key."""
        if self.key:
            text = text.replace(self.key, "…")
        return one_line(text, MAX_QUOTED_CHARS)

    def server_message(self, refusal: HttpRefusal) -> str:
        """Return the server's message as a sentence to append; empty if there is none."""
        message = self.sanitize(refusal.failure.message)
        return f" Server message: {message}" if message else ""

    def refusal_error(
        self, refusal: HttpRefusal, model: str, body: Mapping[str, Any]
    ) -> EngineError:
        """Return the error for a response with a status other than 200.

        Args:
            refusal: the response.
            model: the requested model.
            body: body of the request.
        """
        status, server_message = refusal.status, self.server_message(refusal)
        if status in (400, 403, 422) and _is_filtered(refusal.failure):
            return self._filtered(refusal.failure)
        if status in (400, 403, 422) and set(LOGPROB_FIELDS) & set(refusal.named_fields(body)):
            return EngineError(
                f"{self.server_label} does not support the requested logprobs.{server_message}",
                hint="Send the message without logprobs, or request fewer alternatives.",
            )
        if status in (401, 403):
            return self._invalid_key(status, server_message)
        if status == 429:
            return self._rate_limited(refusal, server_message)
        if 300 <= status < 400:
            location = self.sanitize(refusal.headers.get("location", ""))
            return EngineError(
                f"{self.server_label} redirects, which chatlm does not follow.",
                hint=f"If the target is right, use this base URL: {location}"
                if location
                else "Check the base URL.",
            )
        if status in (400, 413, 422) and (status == 413 or _is_context_too_long(refusal.failure)):
            return ContextTooLong(
                f"The chat is too long for {model} on {self.server_label}.{server_message}",
                hint="Shorten the message, lower max_tokens, or drop older turns: /context. "
                "Set the context window: chatlm config set context N",
            )
        if status in (400, 422):
            return self._rejected_field(refusal, body, server_message)
        if status >= 500:
            return EngineError(
                f"{self.server_label} failed ({status}).{server_message}",
                hint="Try again in a moment. The server's log has the reason.",
            )
        return EngineError(
            f"{self.server_label} refused ({status}).{server_message}", hint=self._check_hint()
        )

    def unknown_model(self, model: str, available: Sequence[str]) -> EngineError:
        """Return the error for a model that the server does not have.

        Args:
            model: the requested model.
            available: the server's models.
        """
        similar = get_close_matches(model, available, MAX_NAMED_MODELS)
        names = ", ".join(one_line(name, 80) for name in similar or available[:MAX_NAMED_MODELS])
        more = (
            f" and {len(available) - MAX_NAMED_MODELS} more"
            if len(available) > MAX_NAMED_MODELS
            else ""
        )
        suggestion = f"Did you mean {names}?" if similar else f"It has: {names}{more}."
        return EngineError(
            f"There is no model {one_line(model, 80)} on {self.server_label}.",
            hint=f"{suggestion} List all: chatlm openai models {self.endpoint.display_name}",
        )

    def unknown_adapter(self, name: str, available: Sequence[str]) -> EngineError:
        """Return the error for an adapter that the server does not have.

        Args:
            name: the requested adapter.
            available: the model's adapters on the server.
        """
        names = ", ".join(one_line(each, 80) for each in available[:MAX_NAMED_MODELS])
        adapters = f"It has: {names}." if available else "It has none."
        return EngineError(
            f"There is no adapter {one_line(name, 80)} on {self.server_label}.",
            hint=f"{adapters} List all: chatlm openai models {self.endpoint.display_name}",
        )

    def not_openai_compatible(self) -> EngineError:
        """Return the error for a server that does not provide the protocol's routes."""
        return EngineError(
            f"There is no OpenAI-compatible server at {self.server_label}.",
            hint="Check the base URL: for most servers it ends in /v1.",
        )

    def unreachable(self, error: httpx2.HTTPError) -> EngineError:
        """Return the error for a connection that failed before a response."""
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                reason = one_line(cause.verify_message or str(cause), MAX_QUOTED_CHARS)
                return EngineError(
                    f"The certificate of {self.server_label} is not trusted: {reason}.",
                    hint="If it is your own, set its certificate authority: "
                    "SSL_CERT_FILE=ca.pem chatlm …",
                )
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return EngineError(
                f"The secure connection to {self.server_label} failed.",
                hint="Check whether the server uses https or only http.",
            )
        if isinstance(error, httpx2.ConnectTimeout):
            reason = "it does not respond"
        elif any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            reason = "connection refused"
        elif any(isinstance(cause, socket.gaierror) for cause in causes):
            reason = "unknown host"
        else:
            reason = one_line(str(causes[-1]).rstrip(".") or type(error).__name__, MAX_QUOTED_CHARS)
        return EngineError(
            f"{self.server_label} cannot be reached: {reason}.",
            hint=f"Check that the server is running. {self._check_hint()}",
        )

    def incomplete_reply(self, *, reply_started: bool) -> EngineError:
        """Return the error for a stream that ended without a finish reason."""
        if reply_started:
            return EngineError(
                f"{self.server_label} ended the reply early. The partial reply is saved.",
                hint="Continue the reply, or regenerate it.",
            )
        return EngineError(
            f"{self.server_label} sent neither a reply nor an error.",
            hint="The server's log has the reason. Some servers do this when the chat is too long: "
            "see /context, or try a shorter message.",
        )

    def failed_mid_reply(self, failure: ServerFailure) -> EngineError:
        """Return the error for a failure that the server reported in the middle of a reply."""
        if _is_filtered(failure):
            return self._filtered(failure)
        error_type = ContextTooLong if _is_context_too_long(failure) else EngineError
        return error_type(
            f"{self.server_label} failed during the reply. Server message: "
            f"{self.sanitize(failure.message)}",
            hint="The partial reply is saved. Regenerate it, or see the server's log.",
        )

    def timed_out(
        self, timeout_setting: str, seconds: float, *, reply_started: bool
    ) -> EngineError:
        """Return the error for a server that stopped responding.

        Args:
            timeout_setting: name of the setting with the timeout.
            seconds: the timeout.
            reply_started: whether part of the reply has arrived.
        """
        saved = " The partial reply is saved." if reply_started else ""
        return EngineError(
            f"{self.server_label} sent nothing for {seconds:g} seconds.{saved}",
            hint=f"Try again; to wait longer: chatlm config set plugins.openai.{timeout_setting} N",
        )

    def invalid_response(self, reason: str) -> EngineError:
        """Return the error for a response that does not follow the protocol."""
        return EngineError(
            f"{self.server_label} did not send a valid OpenAI-compatible response: {reason}.",
            hint=f"Check the base URL: for most servers it ends in /v1. {self._check_hint()}",
        )

    def _filtered(self, failure: ServerFailure) -> ContentFiltered:
        return ContentFiltered(
            f"The content filter of {self.server_label} stopped this. Server message: "
            f"{self.sanitize(failure.message)}",
            hint="Word the message differently, or ask another model.",
        )

    def _invalid_key(self, status: int, server_message: str) -> EngineError:
        endpoint = self.endpoint
        if self.key:
            hint = f"Check that the key is valid and may use this model. {self._check_hint()}"
        elif endpoint.key_variable:
            hint = f"Set the key in the environment: {endpoint.key_variable}=…"
        elif endpoint.name:
            hint = (
                f"Add the environment variable of the key to the endpoint: chatlm config set "
                f"plugins.openai.endpoints '[\"{endpoint.name} {endpoint.url} VARIABLE\"]'; "
                f"or store the key: keyring set chatlm {endpoint.name}"
            )
        else:
            hint = (
                "Configure an endpoint with the environment variable of the key: chatlm config set "
                f"plugins.openai.endpoints '[\"NAME {endpoint.url} VARIABLE\"]'"
            )
        problem = "rejects the key" if self.key else "requires a key"
        return EngineError(f"{self.server_label} {problem} ({status}).{server_message}", hint=hint)

    def _rate_limited(self, refusal: HttpRefusal, server_message: str) -> EngineError:
        after = refusal.retry_after
        wait = f"in {after:g} seconds" if after else "later"
        return EngineError(
            f"{self.server_label} accepts no more requests right now (429).{server_message}",
            hint=f"Try again {wait}. To send fewer at once: chatlm config set "
            "plugins.openai.in_flight N; to wait longer: chatlm config set "
            "plugins.openai.patience_seconds N",
        )

    def _rejected_field(
        self, refusal: HttpRefusal, body: Mapping[str, Any], server_message: str
    ) -> EngineError:
        rejected = refusal.named_fields(body)
        if set(CONTINUE_FIELDS) & set(rejected):
            return ContinuationUnsupported(
                f"{self.server_label} cannot continue a reply.{server_message}",
                hint="Regenerate it instead.",
            )
        if set(THINKING_FIELDS) & set(rejected):
            return EngineError(
                f"{self.server_label} cannot switch thinking as asked.{server_message}",
                hint="Leave it to the server: /thinking auto in the chat, or "
                "chatlm config unset sampling.thinking",
            )
        if settings := [name for name in _SAMPLING_FIELDS if name in rejected]:
            return EngineError(
                f"{self.server_label} rejects the value of {', '.join(settings)}.{server_message}",
                hint="Change it, or leave it to the server: Ctrl-O in the chat, or "
                f"chatlm config unset sampling.{settings[0]}",
            )
        return EngineError(
            f"{self.server_label} rejects the request ({refusal.status}).{server_message}",
            hint=self._check_hint(),
        )

    def _check_hint(self) -> str:
        return f"Try it: chatlm openai check {self.endpoint.display_name}"


def failure_from_body(content: bytes) -> ServerFailure:
    """Parse the body of a refusal: an error object, or a text that is not a web page."""
    try:
        return protocol.parse_failure(protocol.parse_json(content))
    except protocol.ProtocolError:
        text = content.decode("utf-8", "replace").strip()
        return ServerFailure("" if text.startswith("<") else text)


def _is_filtered(failure: ServerFailure) -> bool:
    return bool(_FILTERED_PATTERN.search(f"{failure.message} {failure.codes}"))


def _is_context_too_long(failure: ServerFailure) -> bool:
    return bool(_TOO_LONG_PATTERN.search(f"{failure.message} {failure.codes}"))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, the root cause last."""
    yield error
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for cause in (error.__cause__ or error.__context__, *members):
        if cause is not None:
            yield from _causes(cause)
