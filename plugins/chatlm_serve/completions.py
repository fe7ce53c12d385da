"""Chat completion request and response; model names."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby, pairwise
from typing import Any, TypeVar

from chatlm import (
    ContextTooLong,
    Delta,
    EngineEvent,
    Finished,
    Fitted,
    MessageRefused,
    Sampling,
    Setup,
    SideChats,
    StopReason,
    TokenLogprob,
    Usage,
    UsageError,
    one_line,
)
from chatlm_serve.errors import ApiError, as_api_error, wrong
from chatlm_serve.work_queue import SharedBatch

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


T = TypeVar("T")


MOST_MESSAGES = 1000


MOST_STOPS = 16


MOST_TOP_LOGPROBS = 20


ROLES = ("system", "user", "assistant")


NUMBERS = tuple(name for name in Sampling().settings() if name not in ("max_tokens", "stop"))
"""Fields that chatlm's sampling has by the same name."""


NEUTRAL: Mapping[str, Any] = {
    "n": 1,
    "tools": [],
    "tool_choice": "none",
    "response_format": {"type": "text"},
    "logit_bias": {},
    "store": False,
}
"""Fields that are not supported, with the value that asks for nothing."""


KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


KNOWN = frozenset(
    (
        "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens",
        "stop", "logprobs", "top_logprobs", "user", *NUMBERS, *NEUTRAL,
    )
)  # fmt: skip


@dataclass(frozen=True)
class Params:
    """What a client wants."""

    model: str
    system: str
    history: tuple[tuple[str, str], ...]
    """Earlier messages of the user, each with its reply."""
    question: str
    sampling: Sampling
    logprobs: int | None
    """How many of the likeliest tokens are told beside each; None where nothing is."""
    stream: bool
    include_usage: bool
    """Whether a stream tells at its end how many tokens there were."""


def read_params(body: Mapping[str, Any], context: int) -> Params:
    """Check a body.

    Args:
        body: as JSON has it; a null is the same as nothing.
        context: tokens that the model's context holds.

    Raises:
        ApiError: a field is missing, wrong or not supported; it is named.
    """
    said = {name: value for name, value in body.items() if value is not None}
    for name, value in said.items():
        if name not in KNOWN or (name in NEUTRAL and not _same(value, NEUTRAL[name])):
            raise _unsupported(name)
    stream = _typed(said, "stream", bool, False)
    options = _typed(said, "stream_options", dict, {})
    if options and not stream:
        raise wrong("stream_options", "goes with stream=true only.")
    for name in options.keys() - {"include_usage"}:
        raise _unsupported(f"stream_options.{name}")
    system, history, question = _conversation(_messages(said))
    return Params(
        model=_typed(said, "model", str),
        system=system,
        history=history,
        question=question,
        sampling=_sampling(said, context),
        logprobs=_logprobs(said),
        stream=stream,
        include_usage=_typed(options, "include_usage", bool, False, "stream_options."),
    )


def _messages(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each message as role and text."""
    messages = _typed(said, "messages", list)
    if not 0 < len(messages) <= MOST_MESSAGES:
        raise wrong("messages", f"must be 1 to {MOST_MESSAGES:,} messages, not {len(messages):,}.")
    return [_message(message, f"messages[{at}]") for at, message in enumerate(messages)]


def _message(message: Any, where: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise wrong(where, "must be an object with role and content.")
    said = {name: value for name, value in message.items() if value is not None}
    role = _typed(said, "role", str, where=f"{where}.")
    if role not in ROLES:
        raise wrong(f"{where}.role", f"must be {', '.join(ROLES)}, not {one_line(role, 40)!r}.")
    for name in said.keys() - {"role", "content"}:
        raise _unsupported(f"{where}.{name}")
    if isinstance(said.get("content"), list):
        parts = said["content"]
        return role, "".join(_part(part, f"{where}.content[{at}]") for at, part in enumerate(parts))
    return role, _typed(said, "content", str, where=f"{where}.")


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise wrong(where, 'only parts of the type "text" are supported.', "unsupported_value")
    return _typed(part, "text", str, where=f"{where}.")


def _conversation(
    messages: Sequence[tuple[str, str]],
) -> tuple[str, tuple[tuple[str, str], ...], str]:
    """The system prompt, earlier messages with their replies, and the message to answer.

    Neighbours of one role are one message.
    """
    merged = [
        (role, "\n\n".join(text for _, text in group))
        for role, group in groupby(messages, key=lambda message: message[0])
    ]
    system = merged.pop(0)[1] if merged[0][0] == "system" else ""
    roles = [role for role, _ in merged]
    if "system" in roles:
        raise wrong("messages", "system messages must come first.")
    if not roles or roles[0] != "user" or roles[-1] != "user":
        raise wrong(
            "messages", "the first after system messages, and the last, must be the user's."
        )
    texts = [text for _, text in merged]
    if not all(text.strip() for text in texts[::2]):
        raise wrong("messages", "a message of the user says nothing.")
    return system, tuple(list(pairwise(texts))[::2]), texts[-1]


def _sampling(said: Mapping[str, Any], context: int) -> Sampling:
    limits = [name for name in ("max_tokens", "max_completion_tokens") if name in said]
    if len(limits) > 1:
        raise wrong(limits[0], "leave it out where max_completion_tokens is given.")
    values = {name: _checked(name, name, said[name]) for name in NUMBERS if name in said}
    for name in limits:
        values["max_tokens"] = _checked(name, "max_tokens", said[name])
        if said[name] > context:
            raise wrong(name, f"must be {context:,} at most, all that the context holds.")
    return Sampling.from_dict({**values, "stop": _stops(said)})


def _checked(param: str, name: str, value: Any) -> Any:
    try:
        return Sampling.from_dict({name: value}).settings()[name]
    except UsageError as error:
        raise wrong(param, str(error)) from error


def _stops(said: Mapping[str, Any]) -> tuple[str, ...]:
    stops: tuple[str, ...] = _checked("stop", "stop", said.get("stop", ()))
    if len(stops) > MOST_STOPS:
        raise wrong("stop", f"must be {MOST_STOPS} texts at most, not {len(stops):,}.")
    return stops


def _logprobs(said: Mapping[str, Any]) -> int | None:
    if not _typed(said, "logprobs", bool, False):
        if "top_logprobs" in said:
            raise wrong("top_logprobs", "goes with logprobs=true only.")
        return None
    top = _typed(said, "top_logprobs", int, 0)
    if not 0 <= top <= MOST_TOP_LOGPROBS:
        raise wrong("top_logprobs", f"must be 0 to {MOST_TOP_LOGPROBS}, not {top:,}.")
    return top


def _typed(
    said: Mapping[str, Any], name: str, kind: type[T], default: T | None = None, where: str = ""
) -> T:
    """A field, once its type is right; without a default it has to be there."""
    value = said.get(name, default)
    if type(value) is not kind:
        raise wrong(f"{where}{name}", f"must be {KINDS[kind]}.")
    return value


def _same(value: Any, neutral: Any) -> bool:
    return type(value) is type(neutral) and bool(value == neutral)


def _unsupported(name: str) -> Exception:
    return wrong(one_line(name, 60), "is not supported here.", "unsupported_parameter")


JOINT = "+"


def listed(model: str, offered: Mapping[str, Setup]) -> list[str]:
    """The names that a client is shown: the model, and the model with each set-up."""
    return [model, *(f"{model}{JOINT}{name}" for name in offered)]


def setup_of(name: str, model: str, offered: Mapping[str, Setup]) -> Setup:
    """What a name means.

    Args:
        name: as a client says it.
        model: the served one.
        offered: set-ups by name.

    Raises:
        ApiError: there is no such model, or its parts cannot be used together.
    """
    base, joint, rest = name.removeprefix(model).partition(JOINT)
    parts = rest.split(JOINT) if joint else []
    if base or not name.startswith(model) or any(part not in offered for part in parts):
        known = listed(model, offered)
        near = get_close_matches(name, known, 1)
        raise ApiError(
            404,
            f"The model {one_line(name, 80)!r} does not exist. "
            + (f"Did you mean {near[0]}? " if near else "")
            + "GET /v1/models lists all.",
            param="model",
            code="model_not_found",
        )
    return _joined(offered[part] for part in parts)


def _joined(setups: Iterable[Setup]) -> Setup:
    said: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    for setup in setups:
        values = setup.to_dict()
        keeps = values.pop("kept", {})
        if twice := sorted((said.keys() & values.keys()) | (kept.keys() & keeps.keys())):
            raise wrong("model", f"its parts cannot be used together: two have {twice[0]}.")
        said |= values
        kept |= keeps
    return Setup.from_dict({**said, "kept": kept})
