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
    MessageRefused,
    PromptReady,
    Sampling,
    Setup,
    SideChats,
    StopReason,
    TokenLogprob,
    Usage,
    UsageError,
    one_line,
)
from chatlm_serve.errors import ApiError, as_api_error, field_error
from chatlm_serve.work_queue import SharedBatch

EngineEvents = AsyncGenerator[EngineEvent, None]


ReplyGenerator = Generator[EngineEvent | None, None, None]


DONE_EVENT = "data: [DONE]\n\n"


def generate_reply(
    chats: SideChats, batch: SharedBatch, setup: Setup, params: CompletionParams
) -> ReplyGenerator:
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
        sampling=params.sampling.with_fallback(setup.sampling),
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
    yield from chat.events_without_engine(request)
    if request.reply_complete:
        return
    with closing(batch.stream(request)) as events:
        for event in events:
            if isinstance(event, PromptReady) and event.omitted_messages:
                raise ContextTooLong(
                    f"The messages do not fit the context of {event.context_length:,} "
                    "tokens beside the "
                    f"reply: {len(event.omitted_messages)} of them would not be read.",
                    hint="Leave out the oldest, or lower max_tokens.",
                )
            yield event


class CompletionResponse:
    """One reply on its way to a client.

    Args:
        params: what the client wants.
    """

    def __init__(self, params: CompletionParams) -> None:
        self._params = params
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    async def collect(self, events: EngineEvents) -> dict[str, Any]:
        """The reply at once, when it is complete."""
        text, tokens = "", list[TokenLogprob]()
        async with aclosing(events):
            while not isinstance(event := await anext(events), Finished):
                if isinstance(event, Delta):
                    text += event.text
                    tokens += event.logprobs
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {
            "message": message,
            "finish_reason": openai_finish_reason(event),
            "logprobs": logprobs_object(tokens),
        }
        return self._object("chat.completion", choice) | {"usage": usage_object(event.usage)}

    async def stream(self, first: EngineEvent, rest: EngineEvents) -> AsyncGenerator[str, None]:
        """The reply as server-sent events; what fails now is one of them, and the last."""
        event = first
        async with aclosing(rest):
            yield self._chunk({"role": "assistant", "content": ""})
            try:
                while not isinstance(event, Finished):
                    if isinstance(event, Delta) and event.text:
                        yield self._chunk({"content": event.text}, tokens=event.logprobs)
                    event = await anext(rest)
            except Exception as error:
                yield sse_event(as_api_error(error).body)
                return
        yield self._chunk({}, openai_finish_reason(event))
        if self._params.include_usage:
            yield sse_event(
                self._object("chat.completion.chunk") | {"usage": usage_object(event.usage)}
            )
        yield DONE_EVENT

    def _chunk(
        self,
        delta: dict[str, str],
        finish_reason: str | None = None,
        tokens: Sequence[TokenLogprob] = (),
    ) -> str:
        choice = {
            "delta": delta,
            "finish_reason": finish_reason,
            "logprobs": logprobs_object(tokens),
        }
        piece = self._object("chat.completion.chunk", choice)
        return sse_event(piece | {"usage": None} if self._params.include_usage else piece)

    def _object(self, kind: str, *choices: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._params.model,
            "choices": [{"index": at} | choice for at, choice in enumerate(choices)],
        }


def sse_event(value: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def logprobs_object(tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    """How likely the tokens were, in OpenAI's words; None where that is not told."""
    return {"content": [each.to_dict() for each in tokens], "refusal": None} if tokens else None


def openai_finish_reason(finished: Finished) -> str:
    """Why the reply ended, in OpenAI's words."""
    full = finished.stop_reason in (StopReason.LENGTH, StopReason.CONTEXT_FULL)
    return "length" if full else "stop"


def usage_object(usage: Usage) -> dict[str, Any]:
    """What the reply cost, in OpenAI's words."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


T = TypeVar("T")


MAX_MESSAGES = 1000


MAX_STOP_STRINGS = 16


MAX_TOP_LOGPROBS = 20


ROLES = ("system", "user", "assistant")


SAMPLING_FIELDS = tuple(
    name for name in Sampling().settings() if name not in ("max_tokens", "stop")
)
"""Fields that chatlm's sampling has by the same name."""


NEUTRAL_VALUES: Mapping[str, Any] = {
    "n": 1,
    "tools": [],
    "tool_choice": "none",
    "response_format": {"type": "text"},
    "logit_bias": {},
    "store": False,
}
"""Fields that are not supported, with the value that asks for nothing."""


TYPE_NAMES: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


KNOWN_FIELDS = frozenset(
    (
        "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens",
        "stop", "logprobs", "top_logprobs", "user", *SAMPLING_FIELDS, *NEUTRAL_VALUES,
    )
)  # fmt: skip


@dataclass(frozen=True)
class CompletionParams:
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


def parse_params(body: Mapping[str, Any], context_length: int) -> CompletionParams:
    """Check a body.

    Args:
        body: as JSON has it; a null is the same as nothing.
        context_length: tokens that the model's context holds.

    Raises:
        ApiError: a field is missing, wrong or not supported; it is named.
    """
    said = {name: value for name, value in body.items() if value is not None}
    for name, value in said.items():
        if name not in KNOWN_FIELDS or (
            name in NEUTRAL_VALUES and not _is_neutral(value, NEUTRAL_VALUES[name])
        ):
            raise _unsupported_error(name)
    stream = _get_typed(said, "stream", bool, False)
    options = _get_typed(said, "stream_options", dict, {})
    if options and not stream:
        raise field_error("stream_options", "goes with stream=true only.")
    for name in options.keys() - {"include_usage"}:
        raise _unsupported_error(f"stream_options.{name}")
    system, history, question = _split_conversation(_parse_messages(said))
    return CompletionParams(
        model=_get_typed(said, "model", str),
        system=system,
        history=history,
        question=question,
        sampling=_parse_sampling(said, context_length),
        logprobs=_parse_logprobs(said),
        stream=stream,
        include_usage=_get_typed(options, "include_usage", bool, False, "stream_options."),
    )


def _parse_messages(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each message as role and text."""
    messages = _get_typed(fields, "messages", list)
    if not 0 < len(messages) <= MAX_MESSAGES:
        raise field_error(
            "messages", f"must be 1 to {MAX_MESSAGES:,} messages, not {len(messages):,}."
        )
    return [_parse_message(message, f"messages[{at}]") for at, message in enumerate(messages)]


def _parse_message(message: Any, path: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise field_error(path, "must be an object with role and content.")
    said = {name: value for name, value in message.items() if value is not None}
    role = _get_typed(said, "role", str, path=f"{path}.")
    if role not in ROLES:
        raise field_error(
            f"{path}.role", f"must be {', '.join(ROLES)}, not {one_line(role, 40)!r}."
        )
    for name in said.keys() - {"role", "content"}:
        raise _unsupported_error(f"{path}.{name}")
    if isinstance(said.get("content"), list):
        parts = said["content"]
        return role, "".join(
            _parse_part(part, f"{path}.content[{at}]") for at, part in enumerate(parts)
        )
    return role, _get_typed(said, "content", str, path=f"{path}.")


def _parse_part(part: Any, path: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise field_error(path, 'only parts of the type "text" are supported.', "unsupported_value")
    return _get_typed(part, "text", str, path=f"{path}.")


def _split_conversation(
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
        raise field_error("messages", "system messages must come first.")
    if not roles or roles[0] != "user" or roles[-1] != "user":
        raise field_error(
            "messages", "the first after system messages, and the last, must be the user's."
        )
    texts = [text for _, text in merged]
    if not all(text.strip() for text in texts[::2]):
        raise field_error("messages", "a message of the user says nothing.")
    return system, tuple(list(pairwise(texts))[::2]), texts[-1]


def _parse_sampling(fields: Mapping[str, Any], context_length: int) -> Sampling:
    limits = [name for name in ("max_tokens", "max_completion_tokens") if name in fields]
    if len(limits) > 1:
        raise field_error(limits[0], "leave it out where max_completion_tokens is given.")
    values = {
        name: _check_sampling_value(name, name, fields[name])
        for name in SAMPLING_FIELDS
        if name in fields
    }
    for name in limits:
        values["max_tokens"] = _check_sampling_value(name, "max_tokens", fields[name])
        if fields[name] > context_length:
            raise field_error(
                name, f"must be {context_length:,} at most, all that the context holds."
            )
    return Sampling.from_dict({**values, "stop": _parse_stop(fields)})


def _check_sampling_value(param: str, name: str, value: Any) -> Any:
    try:
        return Sampling.from_dict({name: value}).settings()[name]
    except UsageError as error:
        raise field_error(param, str(error)) from error


def _parse_stop(fields: Mapping[str, Any]) -> tuple[str, ...]:
    stops: tuple[str, ...] = _check_sampling_value("stop", "stop", fields.get("stop", ()))
    if len(stops) > MAX_STOP_STRINGS:
        raise field_error("stop", f"must be {MAX_STOP_STRINGS} texts at most, not {len(stops):,}.")
    return stops


def _parse_logprobs(fields: Mapping[str, Any]) -> int | None:
    if not _get_typed(fields, "logprobs", bool, False):
        if "top_logprobs" in fields:
            raise field_error("top_logprobs", "goes with logprobs=true only.")
        return None
    top = _get_typed(fields, "top_logprobs", int, 0)
    if not 0 <= top <= MAX_TOP_LOGPROBS:
        raise field_error("top_logprobs", f"must be 0 to {MAX_TOP_LOGPROBS}, not {top:,}.")
    return top


def _get_typed(
    fields: Mapping[str, Any],
    name: str,
    expected_type: type[T],
    default: T | None = None,
    path: str = "",
) -> T:
    """A field, once its type is right; without a default it has to be there."""
    value = fields.get(name, default)
    if type(value) is not expected_type:
        raise field_error(f"{path}{name}", f"must be {TYPE_NAMES[expected_type]}.")
    return value


def _is_neutral(value: Any, neutral: Any) -> bool:
    return type(value) is type(neutral) and bool(value == neutral)


def _unsupported_error(name: str) -> Exception:
    return field_error(one_line(name, 60), "is not supported here.", "unsupported_parameter")


SETUP_SEPARATOR = "+"


def model_names(model: str, setups: Mapping[str, Setup]) -> list[str]:
    """The names that a client is shown: the model, and the model with each set-up."""
    return [model, *(f"{model}{SETUP_SEPARATOR}{name}" for name in setups)]


def setup_for_model(name: str, served_model: str, setups: Mapping[str, Setup]) -> Setup:
    """What a name means.

    Args:
        name: as a client says it.
        served_model: the served one.
        setups: set-ups by name.

    Raises:
        ApiError: there is no such model, or its parts cannot be used together.
    """
    base, joint, rest = name.removeprefix(served_model).partition(SETUP_SEPARATOR)
    parts = rest.split(SETUP_SEPARATOR) if joint else []
    if base or not name.startswith(served_model) or any(part not in setups for part in parts):
        known = model_names(served_model, setups)
        near = get_close_matches(name, known, 1)
        raise ApiError(
            404,
            f"The model {one_line(name, 80)!r} does not exist. "
            + (f"Did you mean {near[0]}? " if near else "")
            + "GET /v1/models lists all.",
            param="model",
            code="model_not_found",
        )
    return _merge_setups(setups[part] for part in parts)


def _merge_setups(setups: Iterable[Setup]) -> Setup:
    said: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    for setup in setups:
        values = setup.to_dict()
        keeps = values.pop("kept", {})
        if twice := sorted((said.keys() & values.keys()) | (kept.keys() & keeps.keys())):
            raise field_error("model", f"its parts cannot be used together: two have {twice[0]}.")
        said |= values
        kept |= keeps
    return Setup.from_dict({**said, "kept": kept})
