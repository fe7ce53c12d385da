"""OpenAI's completions of texts, without a chat format: `POST /v1/completions`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.routing import Route

from chatlm import Sampling, TokenLogprob, Usage
from chatlm_serve.errors import ApiError, field_error
from chatlm_serve.fields import get_typed, refuse_unknown, unsupported_error, without_nulls
from chatlm_serve.generation_request import (
    MAX_CHOICES,
    MAX_TOP_LOGPROBS,
    GenerationRequest,
    TextPrompts,
)
from chatlm_serve.protocols.openai_chat import (
    DONE_EVENT,
    FINISH_REASONS,
    parse_choices,
    parse_include_usage,
)
from chatlm_serve.protocols.openai_errors import error_body
from chatlm_serve.protocols.openai_fields import (
    HINTS,
    SAMPLING_FIELDS,
    sampling_values,
)
from chatlm_serve.reply_events import ReplyEnded, ReplyEvent, TextDelta, WholeReply
from chatlm_serve.reply_service import ReplyService
from chatlm_serve.replying import SSE, reply_route, server_sent_event

DEFAULT_TOKENS = 16
"""OpenAI's default of `max_tokens` here."""

KNOWN_FIELDS = frozenset(
    (
        "model", "prompt", "suffix", "max_tokens", "stream", "stream_options", "stop", "n",
        "best_of", "echo", "logprobs", *SAMPLING_FIELDS, *HINTS,
    )
)  # fmt: skip


def routes(service: ReplyService) -> list[Route]:
    """Return the endpoint."""
    return [reply_route("/v1/completions", service, parse_completion_request)]


def parse_completion_request(
    body: Mapping[str, Any],
) -> tuple[GenerationRequest, CompletionFormat]:
    """Parse and validate a request body.

    Args:
        body: the decoded JSON; null fields count as missing.

    Raises:
        ApiError: a field, which is named, is missing, invalid or unsupported.
    """
    fields = without_nulls(body, "body")
    refuse_unknown(fields, KNOWN_FIELDS)
    model = get_typed(fields, "model", str)
    stream = get_typed(fields, "stream", bool, False)
    suffix = get_typed(fields, "suffix", str, "") or None
    texts = _parse_prompt(fields.get("prompt"), suffix)
    each = parse_choices(fields)
    if len(texts) * each > MAX_CHOICES:
        raise field_error("prompt", f"asks for more than {MAX_CHOICES} completions, with n.")
    if get_typed(fields, "best_of", int, each) != each:
        raise unsupported_error("best_of", "is supported only if it equals n.")
    logprobs = fields.get("logprobs")
    if logprobs is not None and (
        type(logprobs) is not int or not 0 <= logprobs <= MAX_TOP_LOGPROBS
    ):
        raise field_error("logprobs", f"must be an integer from 0 to {MAX_TOP_LOGPROBS}.")
    echo = get_typed(fields, "echo", bool, False)
    if echo and (logprobs is not None or suffix is not None):
        raise unsupported_error("echo", "cannot be combined with logprobs or suffix.")
    values = {"max_tokens": DEFAULT_TOKENS} | sampling_values(fields, ("max_tokens",))
    request = GenerationRequest(
        model=model,
        conversation=TextPrompts(texts, suffix),
        sampling=Sampling.from_dict(values),
        logprobs=logprobs,
        choices=len(texts) * each,
        stream=stream,
    )
    include_usage = parse_include_usage(fields, stream)
    return request, CompletionFormat(model, texts if echo else (), each, include_usage)


def _parse_prompt(value: Any, suffix: str | None) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise field_error("prompt", "must be a string, or a list of strings.")
    if any(isinstance(text, int | list) for text in texts):
        raise unsupported_error("prompt", "token ids are not supported; send text.")
    if not all(isinstance(text, str) for text in texts):
        raise field_error("prompt", "must be a string, or a list of strings.")
    if not all(texts) and suffix is None:
        raise field_error("prompt", "is empty.")
    return tuple(texts)


class CompletionFormat:
    """Formats continued texts, whole or streamed.

    Args:
        model: the model's name in the request.
        echoed: prompts that precede their completions; empty for none.
        each: completions of each prompt.
        include_usage: whether a stream ends with the token counts.
    """

    media_type = SSE

    def __init__(self, model: str, echoed: Sequence[str], each: int, include_usage: bool) -> None:
        self._model = model
        self._echoed = echoed
        self._each = each
        self._include_usage = include_usage
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._usages: dict[int, Usage] = {}
        self._lengths: dict[int, int] = {}
        """Characters of each completion so far."""

    def whole(self, replies: Sequence[WholeReply]) -> dict[str, Any]:
        """Return the complete response body."""
        choices = []
        for number, each in enumerate(replies):
            self._usages[number] = each.end.usage
            text = self._echo(number) + each.text
            finish_reason = FINISH_REASONS[each.end.stop_reason]
            choices.append(self._choice(number, text, each.logprobs, finish_reason))
        return self._object(choices) | {"usage": self._usage()}

    def begin(self) -> str:
        """Return the prompts if they are wanted."""
        texts = (self._chunk(at, self._echo(at)) for at in range(len(self._echoed) * self._each))
        return "".join(texts)

    def event(self, choice: int, event: ReplyEvent) -> str:
        """Format an event."""
        match event:
            case TextDelta(text, logprobs):
                return self._chunk(choice, text, logprobs)
            case ReplyEnded(stop_reason, usage):
                self._usages[choice] = usage
                return self._chunk(choice, "", (), FINISH_REASONS[stop_reason])
        return ""

    def end(self) -> str:
        """Return the token counts if they are asked for, and the end."""
        if not self._include_usage:
            return DONE_EVENT
        return server_sent_event(self._object([]) | {"usage": self._usage()}) + DONE_EVENT

    def failure(self, error: ApiError) -> str:
        """Return the error as the last event."""
        return server_sent_event(error_body(error))

    def _echo(self, number: int) -> str:
        return self._echoed[number // self._each] if self._echoed else ""

    def _chunk(
        self,
        number: int,
        text: str,
        tokens: Sequence[TokenLogprob] = (),
        finish_reason: str | None = None,
    ) -> str:
        chunk = self._object([self._choice(number, text, tokens, finish_reason)])
        return server_sent_event(chunk | {"usage": None} if self._include_usage else chunk)

    def _choice(
        self, number: int, text: str, tokens: Sequence[TokenLogprob], finish_reason: str | None
    ) -> dict[str, Any]:
        start = self._lengths.get(number, 0)
        self._lengths[number] = start + len(text)
        return {
            "index": number,
            "text": text,
            "logprobs": _logprobs_object(tokens, start),
            "finish_reason": finish_reason,
        }

    def _object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }

    def _usage(self) -> dict[str, Any]:
        prompts = [usage for number, usage in self._usages.items() if number % self._each == 0]
        prompt = sum(usage.prompt_tokens for usage in prompts)
        completion = sum(usage.completion_tokens for usage in self._usages.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {
                "cached_tokens": sum(usage.cached_tokens for usage in prompts)
            },
        }


def _logprobs_object(tokens: Sequence[TokenLogprob], start: int) -> dict[str, Any] | None:
    """Return tokens with their log-probabilities in the old format; None without tokens."""
    if not tokens:
        return None
    offsets = []
    for token in tokens:
        offsets.append(start)
        start += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {other.text: other.logprob for other in token.top_logprobs} for token in tokens
        ],
        "text_offset": offsets,
    }
