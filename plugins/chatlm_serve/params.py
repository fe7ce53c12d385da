"""Reads the body of a chat completion, as OpenAI's API has it; knows no engine and no HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, TypeVar

from chatlm import Sampling, UsageError, one_line
from chatlm_serve.errors import wrong

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
