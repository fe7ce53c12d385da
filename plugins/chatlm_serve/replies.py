"""Lets the engine answer, and writes what it says as OpenAI's API has it."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing, suppress
from typing import Any

from chatlm import (
    ContextTooLong,
    Delta,
    EngineEvent,
    Finished,
    Fitted,
    MessageRefused,
    Setup,
    SideChats,
    StopReason,
    TokenLogprob,
    Usage,
)
from chatlm_serve.errors import as_api_error
from chatlm_serve.params import Params
from chatlm_serve.sharing import SharedBatch

Events = AsyncGenerator[EngineEvent, None]
Replying = Generator[EngineEvent | None, None, None]

DONE = "data: [DONE]\n\n"


def generate(chats: SideChats, batch: SharedBatch, setup: Setup, params: Params) -> Replying:
    """The events of one reply, and None now and then; closing it ends the reply.

    A message that a plugin refuses is answered by the reason.

    Args:
        chats: by which it is answered.
        batch: of their engine.
        setup: what the chat is.
        params: what the client wants.

    Raises:
        ContextTooLong: not all messages fit the context; an engine alone would leave out the
            oldest, and the client would not know.
        ChatlmError: the set-up or the engine failed.
    """
    asked = dataclasses.replace(
        setup,
        system=params.system or setup.system,
        sampling=params.sampling.over(setup.sampling),
    )
    chat = chats.begin(asked)
    try:
        for text, reply in params.history:
            with suppress(MessageRefused):  # a model never read it
                chat.add(text, reply)
        request = dataclasses.replace(chat.request(params.question), logprobs=params.logprobs)
    except MessageRefused as refusal:
        yield Delta(refusal.message)
        yield Finished(StopReason.END, Usage())
        return
    yield from chat.given(request)
    if request.complete:
        return
    with closing(batch.stream(request)) as events:
        for event in events:
            if isinstance(event, Fitted) and event.left_out:
                raise ContextTooLong(
                    f"The messages do not fit the context of {event.limit:,} tokens beside the "
                    f"reply: {len(event.left_out)} of them would not be read.",
                    hint="Leave out the oldest, or lower max_tokens.",
                )
            yield event


class Reply:
    """One reply on its way to a client.

    Args:
        params: what the client wants.
    """

    def __init__(self, params: Params) -> None:
        self._params = params
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    async def whole(self, events: Events) -> dict[str, Any]:
        """The reply at once, when it is complete."""
        text, tokens = "", list[TokenLogprob]()
        async with aclosing(events):
            while not isinstance(event := await anext(events), Finished):
                if isinstance(event, Delta):
                    text += event.text
                    tokens += event.tokens
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {
            "message": message,
            "finish_reason": finish_reason(event),
            "logprobs": logprobs(tokens),
        }
        return self._object("chat.completion", choice) | {"usage": usage(event.usage)}

    async def pieces(self, first: EngineEvent, rest: Events) -> AsyncGenerator[str, None]:
        """The reply as server-sent events; what fails now is one of them, and the last."""
        event = first
        async with aclosing(rest):
            yield self._piece({"role": "assistant", "content": ""})
            try:
                while not isinstance(event, Finished):
                    if isinstance(event, Delta) and event.text:
                        yield self._piece({"content": event.text}, tokens=event.tokens)
                    event = await anext(rest)
            except Exception as error:
                yield sse(as_api_error(error).body)
                return
        yield self._piece({}, finish_reason(event))
        if self._params.include_usage:
            yield sse(self._object("chat.completion.chunk") | {"usage": usage(event.usage)})
        yield DONE

    def _piece(
        self,
        delta: dict[str, str],
        reason: str | None = None,
        tokens: Sequence[TokenLogprob] = (),
    ) -> str:
        choice = {"delta": delta, "finish_reason": reason, "logprobs": logprobs(tokens)}
        piece = self._object("chat.completion.chunk", choice)
        return sse(piece | {"usage": None} if self._params.include_usage else piece)

    def _object(self, kind: str, *choices: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._params.model,
            "choices": [{"index": at} | choice for at, choice in enumerate(choices)],
        }


def sse(value: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    """How likely the tokens were, in OpenAI's words; None where that is not told."""
    return {"content": [each.to_dict() for each in tokens], "refusal": None} if tokens else None


def finish_reason(end: Finished) -> str:
    """Why the reply ended, in OpenAI's words."""
    full = end.stop_reason in (StopReason.LENGTH, StopReason.CONTEXT_FULL)
    return "length" if full else "stop"


def usage(cost: Usage) -> dict[str, Any]:
    """What the reply cost, in OpenAI's words."""
    return {
        "prompt_tokens": cost.prompt_tokens,
        "completion_tokens": cost.completion_tokens,
        "total_tokens": cost.prompt_tokens + cost.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cost.cached_tokens},
    }
