"""What went wrong with a server, in words, each with a next step; knows no connection."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import httpx2

from chatlm import ContextTooLong, ContinuationUnsupported, EngineError, Sampling, one_line
from chatlm_openai import protocol
from chatlm_openai.endpoints import Endpoint
from chatlm_openai.protocol import CONTINUE_FIELDS, LOGPROB_FIELDS, ServerFailure

_BUSY_STATUSES = (429, 502, 503)


_QUOTA_CODE = "insufficient_quota"
"""What OpenAI calls it when nothing is left to spend; its status is 429 too."""


MAX_QUOTED_CHARS = 300
"""Characters of a server's own words."""


MAX_NAMED_MODELS = 8
"""Models named in an error."""


_TOO_LONG_PATTERN = re.compile(
    r"context[ _](length|size|window)|longer than the model|too many tokens|inputs.? tokens",
    re.IGNORECASE,
)


_SAMPLING_FIELDS = tuple(Sampling().settings())


class HttpRefusal(Exception):
    """An answer that is none.

    Args:
        status: of HTTP.
        failure: what the server says of it.
        headers: of the answer.
    """

    def __init__(self, status: int, failure: ServerFailure, headers: Mapping[str, str]) -> None:
        super().__init__(status)
        self.status = status
        self.failure = failure
        self.headers = headers

    @property
    def is_transient(self) -> bool:
        """Whether the same may be answered in a moment."""
        return self.status in _BUSY_STATUSES and _QUOTA_CODE not in self.failure.codes

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the server wants to be asked again; None where it does not say."""
        try:
            seconds = float(self.headers.get("retry-after", ""))
        except ValueError:
            return None
        return seconds if 0 <= seconds < 10**6 else None

    def named_fields(self, body: Mapping[str, Any]) -> list[str]:
        """Fields of a body, or the one that is wanted for `max_tokens`, that it names."""
        fields = [*body, "max_completion_tokens"]
        text = f"{self.failure.message} {self.failure.codes}"
        return [name for name in fields if re.search(rf"\b{re.escape(name)}\b", text)]


@dataclass(frozen=True)
class ErrorMessages:
    """Makes errors about one server.

    Args:
        endpoint: the server.
        key: its key, which is never shown, not even in the server's own words.
    """

    endpoint: Endpoint
    key: str = field(repr=False)

    @property
    def server_label(self) -> str:
        """The server, as the person calls it, and its URL."""
        name, url = self.endpoint.name, self.endpoint.url
        return f"{name} ({url})" if name else url

    def sanitize(self, text: str) -> str:
        """A server's own words, safe to show."""
        if self.key:
            text = text.replace(self.key, "…")
        return one_line(text, MAX_QUOTED_CHARS)

    def server_message(self, refusal: HttpRefusal) -> str:
        """What a server says of a refusal, as a sentence to be put behind another."""
        said = self.sanitize(refusal.failure.message)
        return f" It says: {said}" if said else ""

    def refusal_error(
        self, refusal: HttpRefusal, model: str, body: Mapping[str, Any]
    ) -> EngineError:
        """For an answer with another status than 200.

        Args:
            refusal: the answer.
            model: that was asked for.
            body: what was sent.
        """
        status, says = refusal.status, self.server_message(refusal)
        if status in (400, 403, 422) and set(LOGPROB_FIELDS) & set(refusal.named_fields(body)):
            return EngineError(
                f"{self.server_label} does not tell how likely the tokens were, as was "
                f"asked for.{says}",
                hint="Ask without logprobs, or for fewer of the likeliest tokens.",
            )
        if status in (401, 403):
            return self._invalid_key(status, says)
        if status == 429:
            return self._rate_limited(refusal, says)
        if 300 <= status < 400:
            to = self.sanitize(refusal.headers.get("location", ""))
            return EngineError(
                f"{self.server_label} sends elsewhere, which chatlm does not follow.",
                hint=f"If that is right, give this base URL: {to}" if to else "See the base URL.",
            )
        if status in (400, 413, 422) and (status == 413 or _is_context_too_long(refusal.failure)):
            return ContextTooLong(
                f"The chat is too long for {model} on {self.server_label}.{says}",
                hint="Shorten the message, lower max_tokens, or leave older turns out: /context. "
                "How long it may be: chatlm config set context N",
            )
        if status in (400, 422):
            return self._rejected_field(refusal, body, says)
        if status >= 500:
            return EngineError(
                f"{self.server_label} failed ({status}).{says}",
                hint="Try again in a moment. The server's own log has the reason.",
            )
        return EngineError(
            f"{self.server_label} refused ({status}).{says}", hint=self._check_hint()
        )

    def unknown_model(self, model: str, available: Sequence[str]) -> EngineError:
        """The server does not have a model.

        Args:
            model: that was asked for.
            available: those it has.
        """
        near = get_close_matches(model, available, MAX_NAMED_MODELS)
        named = ", ".join(one_line(name, 80) for name in near or available[:MAX_NAMED_MODELS])
        more = (
            f" and {len(available) - MAX_NAMED_MODELS} more"
            if len(available) > MAX_NAMED_MODELS
            else ""
        )
        told = f"Did you mean {named}?" if near else f"It has: {named}{more}."
        return EngineError(
            f"There is no model {one_line(model, 80)} on {self.server_label}.",
            hint=f"{told} See all: chatlm openai models {self.endpoint.display_name}",
        )

    def unknown_adapter(self, name: str, available: Sequence[str]) -> EngineError:
        """The server does not have an adapter.

        Args:
            name: that was asked for.
            available: those it has.
        """
        named = ", ".join(one_line(each, 80) for each in available[:MAX_NAMED_MODELS])
        has = f"It has: {named}." if available else "It has none."
        return EngineError(
            f"There is no adapter {one_line(name, 80)} on {self.server_label}.",
            hint=f"{has} See all: chatlm openai models {self.endpoint.display_name}",
        )

    def not_openai_compatible(self) -> EngineError:
        """There is a server, but not the protocol."""
        return EngineError(
            f"There is no OpenAI-compatible server at {self.server_label}.",
            hint="See the base URL: of most servers it ends in /v1.",
        )

    def unreachable(self, error: httpx2.HTTPError) -> EngineError:
        """There was no connection, or it broke before anything was said."""
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                reason = one_line(cause.verify_message or str(cause), MAX_QUOTED_CHARS)
                return EngineError(
                    f"The certificate of {self.server_label} is not trusted: {reason}.",
                    hint="If it is your own, name its authority: SSL_CERT_FILE=ca.pem chatlm …",
                )
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return EngineError(
                f"There is no safe connection to {self.server_label}.",
                hint="See whether the server speaks https, or only http.",
            )
        if isinstance(error, httpx2.ConnectTimeout):
            reason = "it does not answer"
        elif any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            reason = "nothing listens there"
        elif any(isinstance(cause, socket.gaierror) for cause in causes):
            reason = "no machine of this name is known"
        else:
            reason = one_line(str(causes[-1]).rstrip(".") or type(error).__name__, MAX_QUOTED_CHARS)
        return EngineError(
            f"{self.server_label} cannot be reached: {reason}.",
            hint=f"See whether the server runs. {self._check_hint()}",
        )

    def incomplete_reply(self, *, reply_started: bool) -> EngineError:
        """A reply ended in the middle, or before its first word."""
        if reply_started:
            return EngineError(
                f"{self.server_label} broke the reply off. What was said is kept.",
                hint="Go on with it (Ctrl-G), or ask again (Ctrl-R).",
            )
        return EngineError(
            f"{self.server_label} gave no reply, and no reason.",
            hint="Its own log has the reason. Some servers do so when the chat is too long: see "
            "/context, or try a shorter message.",
        )

    def failed_mid_reply(self, failure: ServerFailure) -> EngineError:
        """The server told of a failure within a reply."""
        kind = ContextTooLong if _is_context_too_long(failure) else EngineError
        return kind(
            f"{self.server_label} failed within the reply. It says: "
            f"{self.sanitize(failure.message)}",
            hint="What was said is kept. Ask again (Ctrl-R), or see the server's log.",
        )

    def timed_out(
        self, timeout_setting: str, seconds: float, *, reply_started: bool
    ) -> EngineError:
        """The server says nothing any more.

        Args:
            timeout_setting: that says how long it may.
            seconds: how long that is.
            reply_started: whether a reply has begun.
        """
        kept = " What was said is kept." if reply_started else ""
        return EngineError(
            f"{self.server_label} said nothing for {seconds:g} seconds.{kept}",
            hint=f"Try again; to wait longer: chatlm config set plugins.openai.{timeout_setting} N",
        )

    def invalid_response(self, reason: str) -> EngineError:
        """What the server says is not the protocol."""
        return EngineError(
            f"{self.server_label} does not answer as an OpenAI-compatible server does: {reason}.",
            hint=f"See the base URL: of most servers it ends in /v1. {self._check_hint()}",
        )

    def _invalid_key(self, status: int, server_message: str) -> EngineError:
        endpoint = self.endpoint
        if self.key:
            hint = f"See whether the key is right and may use this model. {self._check_hint()}"
        elif endpoint.key_variable:
            hint = f"Put its key into the environment: {endpoint.key_variable}=…"
        elif endpoint.name:
            hint = (
                f"Write the variable that holds its key behind it: chatlm config set "
                f"plugins.openai.endpoints '[\"{endpoint.name} {endpoint.url} VARIABLE\"]'; "
                f"or store the key: keyring set chatlm {endpoint.name}"
            )
        else:
            hint = (
                "Name it, with the variable that holds its key: chatlm config set "
                f"plugins.openai.endpoints '[\"NAME {endpoint.url} VARIABLE\"]'"
            )
        what = "does not take the key" if self.key else "wants a key"
        return EngineError(f"{self.server_label} {what} ({status}).{server_message}", hint=hint)

    def _rate_limited(self, refusal: HttpRefusal, server_message: str) -> EngineError:
        after = refusal.retry_after
        wait = f"in {after:g} seconds" if after else "later"
        return EngineError(
            f"{self.server_label} takes no more requests now (429).{server_message}",
            hint=f"Try again {wait}. Fewer at once: chatlm config set plugins.openai.in_flight N; "
            "to wait longer: chatlm config set plugins.openai.patience_seconds N",
        )

    def _rejected_field(
        self, refusal: HttpRefusal, body: Mapping[str, Any], server_message: str
    ) -> EngineError:
        named = refusal.named_fields(body)
        if set(CONTINUE_FIELDS) & set(named):
            return ContinuationUnsupported(
                f"{self.server_label} cannot go on with a reply.{server_message}",
                hint="Ask for a new one instead (Ctrl-R).",
            )
        if settings := [name for name in _SAMPLING_FIELDS if name in named]:
            return EngineError(
                f"{self.server_label} does not take {', '.join(settings)} as set.{server_message}",
                hint="Change it, or leave it to the server: Ctrl-O in the chat, or "
                f"chatlm config unset sampling.{settings[0]}",
            )
        return EngineError(
            f"{self.server_label} does not take the request ({refusal.status}).{server_message}",
            hint=self._check_hint(),
        )

    def _check_hint(self) -> str:
        return f"Try it: chatlm openai check {self.endpoint.display_name}"


def failure_from_body(content: bytes) -> ServerFailure:
    """What the body of a refusal says: its error, else its beginning unless that is a web page."""
    try:
        return protocol.parse_failure(protocol.parse_json(content))
    except protocol.ProtocolError:
        text = content.decode("utf-8", "replace").strip()
        return ServerFailure("" if text.startswith("<") else text)


def _is_context_too_long(failure: ServerFailure) -> bool:
    return bool(_TOO_LONG_PATTERN.search(f"{failure.message} {failure.codes}"))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all that led to it, the deepest last."""
    yield error
    grouped = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for cause in (error.__cause__ or error.__context__, *grouped):
        if cause is not None:
            yield from _causes(cause)
