"""Requests in a file, one JSON object a line: chatlm's own form, and that of OpenAI's batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chatlm.chat.request_tools import TOOL_FIELDS, check_results, parse_tools
from chatlm.errors import ChatlmError, UsageError
from chatlm.store.importing.fields import InvalidChat
from chatlm.store.importing.openai_messages import parse_openai_messages
from chatlm.text import one_line
from chatlm.types.conversations import Turn
from chatlm.types.events import MAX_TOP_LOGPROBS
from chatlm.types.parts import Part, Reasoning, Text, ToolCall, ToolResult
from chatlm.types.replies import ReplyStep
from chatlm.types.requests import ToolDefinition
from chatlm.types.sampling import Sampling

MAX_LINE_CHARACTERS = 8_000_000
"""Limit of one line."""

OPENAI_URL = "/v1/chat/completions"

_OWN_FIELDS = TOOL_FIELDS | {
    *("id", "prompt", "messages", "system", "model", "adapter", "logprobs"),
}

_SAMPLING_FIELDS = frozenset(Sampling().settings())

_BATCH_FIELDS = frozenset({"custom_id", "method", "url", "body"})

_EFFORTS = {"none": "off", "minimal": "low", "low": "low", "medium": "medium", "high": "high"}
"""Values of OpenAI's `reasoning_effort`, with those of `Sampling.thinking`."""

_WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "service_tier", "prompt_cache_key", "safety_identifier", "stream_options"}
)
"""Fields of OpenAI's body that change no answer here."""

_OTHER_FIELDS = frozenset({"model", "messages", "logprobs", "top_logprobs"})

_ONLY_VALUES: Mapping[str, Any] = {"n": 1, "stream": False, "store": False}
"""Fields of OpenAI's body that are accepted with one value, which has no effect."""


@dataclass(frozen=True)
class FileRequest:
    """A request of a file."""

    id: str | int
    """As the line names it, else the line's number."""
    line: int
    """Its number, from 1."""
    openai: bool
    """Whether it has the form of OpenAI's batches, and its answer shall have it, too."""
    digest: str
    """Of the line: 24 hexadecimal digits."""
    question: str = ""
    history: tuple[tuple[str, tuple[ReplyStep, ...]], ...] = ()
    """Earlier turns: the message and the reply."""
    reply: tuple[ReplyStep, ...] = ()
    """Steps of the reply so far, which end with the results of tools."""
    system: str | None = None
    """None leaves it to what all requests have in common."""
    model: str = ""
    """Empty for the one that all requests have in common."""
    adapter: str | None = None
    """As `system`; empty for none."""
    sampling: Sampling = field(default_factory=Sampling)
    logprobs: int | None = None
    max_new_tokens: int | None = None
    """As `Request.max_new_tokens`: OpenAI's limit counts thoughts, too."""
    tools: tuple[ToolDefinition, ...] = ()
    tool_choice: str = "auto"
    """As in `Request`."""
    parallel_tool_calls: bool = True
    problem: ChatlmError | None = None
    """Why the request cannot be answered; then nothing else is known of it."""


def read_requests(path: Path) -> list[FileRequest]:
    """Read the requests of a file; empty lines are left out.

    A line that is no valid request becomes one with a `problem`.

    Raises:
        UsageError: the file cannot be read, has no request, or two requests have the same id.
    """
    name = one_line(str(path), 80)
    requests = []
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            requests = list(_read_lines(file))
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8.") from None
    if not requests:
        raise UsageError(
            f"{name} has no requests.",
            hint='Write one in each line, such as {"id": 1, "prompt": "Why is the sky blue?"}',
        )
    lines: dict[str | int, int] = {}
    for request in requests:
        if lines.setdefault(request.id, request.line) != request.line:
            raise UsageError(
                f"Lines {lines[request.id]} and {request.line} of {name} have the same id, "
                f"{_show_id(request.id)}.",
                hint="Give each line an id of its own. A line without one has its number as id.",
            )
    return requests


def _read_lines(lines: Iterator[str]) -> Iterator[FileRequest]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield parse_request_line(line.strip(), number)


def parse_request_line(line: str, number: int) -> FileRequest:
    """Parse one request; what is wrong with it is its `problem`.

    Args:
        line: a JSON object.
        number: of the line, from 1.
    """
    digest = hashlib.sha256(line.encode()).hexdigest()[:24]
    known: dict[str, Any] = {"id": number, "line": number, "openai": False, "digest": digest}
    try:
        if len(line) > MAX_LINE_CHARACTERS:
            raise UsageError(f"the line has more than {MAX_LINE_CHARACTERS:,} characters")
        values = _parse_object(line)
        known["openai"] = "custom_id" in values
        known["id"] = _parse_id(values, "custom_id" if known["openai"] else "id", number)
        parse = _parse_openai if known["openai"] else _parse_own
        return FileRequest(**known, **parse(values))
    except ChatlmError as error:
        return FileRequest(**known, problem=error)


def _parse_object(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except RecursionError:
        raise UsageError("the line is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"the line is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UsageError("the line must be a JSON object")
    return {name: value for name, value in values.items() if value is not None}


def _parse_id(values: Mapping[str, Any], name: str, number: int) -> str | int:
    value = values.get(name, number)
    if type(value) not in (str, int) or value == "" or len(str(value)) > 512:
        raise UsageError(f"{name} must be a whole number or a text of 1 to 512 characters")
    return value  # type: ignore[no-any-return]


def _show_id(value: str | int) -> str:
    return one_line(json.dumps(value, ensure_ascii=False), 80)


def _parse_own(values: Mapping[str, Any]) -> dict[str, Any]:
    for name in values.keys() - _OWN_FIELDS - _SAMPLING_FIELDS:
        raise UsageError(f"{one_line(name, 60)} is not a field of a request")
    if ("prompt" in values) == ("messages" in values):
        raise UsageError("a request needs either prompt or messages")
    if "prompt" in values:
        parsed: dict[str, Any] = {"question": _get(values, "prompt", str)}
    else:
        parsed = _parse_messages(values["messages"])
    if "system" in values:
        if parsed.get("system") is not None:
            raise UsageError("system cannot be combined with a system message in messages")
        parsed["system"] = _get(values, "system", str)
    if not parsed["question"].strip():
        raise UsageError("the message is empty")
    logprobs = _get(values, "logprobs", int) if "logprobs" in values else None
    if logprobs is not None and not 0 <= logprobs <= MAX_TOP_LOGPROBS:
        raise UsageError(f"logprobs must be 0 to {MAX_TOP_LOGPROBS}, not {logprobs}")
    settings = {name: value for name, value in values.items() if name in _SAMPLING_FIELDS}
    return (
        parsed
        | parse_tools(values)
        | {
            "model": _get(values, "model", str) if "model" in values else "",
            "adapter": _get(values, "adapter", str) if "adapter" in values else None,
            "sampling": Sampling.from_dict(settings),
            "logprobs": logprobs,
        }
    )


def _parse_openai(values: Mapping[str, Any]) -> dict[str, Any]:
    for name in values.keys() - _BATCH_FIELDS:
        raise UsageError(f"{one_line(name, 60)} is not a field of OpenAI's batches")
    method, url = _get(values, "method", str), _get(values, "url", str)
    if (method, url) != ("POST", OPENAI_URL):
        place = one_line(f"{method} {url}", 80)
        raise UsageError(f"only requests with POST {OPENAI_URL} are answered, not {place}")
    body = {name: value for name, value in _get(values, "body", dict).items() if value is not None}
    settings = {}
    for name, value in body.items():
        if name in _SAMPLING_FIELDS - {"schema", "grammar", "max_tokens"}:
            settings[name] = value
        elif name in ("max_tokens", "max_completion_tokens"):
            settings["max_tokens"] = value
        elif name == "reasoning_effort":
            if value not in _EFFORTS:
                raise UsageError(f"reasoning_effort must be one of {', '.join(_EFFORTS)}")
            settings["thinking"] = _EFFORTS[value]
        elif name == "response_format":
            settings["schema"] = _parse_response_format(value)
        elif name in _ONLY_VALUES:
            if value != _ONLY_VALUES[name]:
                raise UsageError(f"body.{name} is not supported")
        elif name not in _WITHOUT_EFFECT | TOOL_FIELDS | _OTHER_FIELDS:
            raise UsageError(f"body.{one_line(name, 60)} is not supported")
    if isinstance(settings.get("logit_bias"), dict):
        settings["logit_bias"] = _parse_bias_by_id(settings["logit_bias"])
    wants_logprobs = "logprobs" in body and _get(body, "logprobs", bool)
    if "top_logprobs" in body and not wants_logprobs:
        raise UsageError("top_logprobs requires logprobs=true")
    top = _get(body, "top_logprobs", int) if "top_logprobs" in body else 0
    if not 0 <= top <= MAX_TOP_LOGPROBS:
        raise UsageError(f"top_logprobs must be 0 to {MAX_TOP_LOGPROBS}, not {top}")
    parsed = _parse_messages(body.get("messages"))
    if not parsed["question"].strip():
        raise UsageError("the last message is empty")
    sampling = Sampling.from_dict(settings)
    return (
        parsed
        | parse_tools(body)
        | {
            "model": _get(body, "model", str),
            "sampling": sampling,
            "logprobs": top if wants_logprobs else None,
            "max_new_tokens": sampling.max_tokens,
        }
    )


def _parse_bias_by_id(biases: Mapping[str, Any]) -> list[tuple[int, Any]]:
    try:
        return [(int(token), bias) for token, bias in biases.items()]
    except ValueError:
        raise UsageError("logit_bias must be an object by token id") from None


def _parse_response_format(value: Any) -> Any:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema" and isinstance(value.get("json_schema"), dict):
        return _get(value["json_schema"], "schema", dict)
    raise UsageError("response_format must have the type text, json_object or json_schema")


def _parse_messages(messages: Any) -> dict[str, Any]:
    """Return system prompt, history and question of messages in OpenAI's format."""
    try:
        chat = parse_openai_messages({"messages": messages}, datetime.now(UTC))
    except InvalidChat as error:
        raise UsageError(f"messages: {error}") from None
    for what in chat.left_out:
        raise UsageError(f"messages: {what} are not supported")
    history, waiting = [], list[str]()
    for turn in chat.conversation.turns:
        _check_is_text(turn)
        waiting.append(turn.user.text)
        if turn.reply:
            check_results(turn.reply.steps)
            history.append(("\n\n".join(waiting), tuple(turn.reply.steps)))
            waiting.clear()
    reply: tuple[ReplyStep, ...] = ()
    if not waiting:
        question, reply = history.pop()
        if not reply[-1].has_tool_results:
            raise UsageError("messages: the last must be from the user, or the result of a tool")
        waiting = [question]
    return {
        "system": chat.conversation.system or None,
        "history": tuple(history),
        "question": "\n\n".join(waiting),
        "reply": reply,
    }


def _check_is_text(turn: Turn) -> None:
    steps = turn.reply.steps if turn.reply else ()
    parts: Sequence[Part] = (*turn.user.parts, *(part for step in steps for part in step.parts))
    if not all(isinstance(part, Text | Reasoning | ToolCall | ToolResult) for part in parts):
        raise UsageError("messages: images and files are not supported")


_TYPE_NAMES: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    str: "a text",
    dict: "an object",
}


def _get(values: Mapping[str, Any], name: str, kind: type) -> Any:
    """Return a required field after checking its type."""
    value = values.get(name)
    if type(value) is not kind:
        raise UsageError(f"{name} must be {_TYPE_NAMES[kind]}")
    return value
