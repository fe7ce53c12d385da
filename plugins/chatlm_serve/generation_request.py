"""What a client asks for, in no protocol's words: messages, tools, sampling and limits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from chatlm import (
    Message,
    Part,
    PreparedImage,
    ReplyStep,
    Sampling,
    Schema,
    StopReason,
    Text,
    ToolCall,
    ToolDefinition,
    ToolResult,
    UsageError,
    dump_json,
    one_line,
    parse_schema,
)
from chatlm_serve.errors import field_error
from chatlm_serve.images import ClientImage, split_images

MAX_MESSAGES = 1000
MAX_CHARACTERS_PER_TOKEN = 16
"""Messages with more characters than this for each token of the context are refused; text has 2
to 6."""
MAX_STOP_STRINGS = 16
MAX_TOOLS = 128
MAX_TOOL_NAME = 256
MAX_CHOICES = 8
MAX_TOP_LOGPROBS = 20
MAX_TOKENS = 1_000_000
"""The largest limit of tokens that chatlm knows; no context is as long."""


@dataclass(frozen=True)
class ClientTurn:
    """A user message, and what answers it in the client's messages."""

    question: str
    reply: tuple[ReplyStep, ...] = ()
    """Outputs of the model, each with the results of the tools that it called."""
    images: tuple[PreparedImage, ...] = ()
    """Of the question, with their places in it."""
    result_images: tuple[PreparedImage, ...] = ()
    """Of the results of tools in the reply."""


@dataclass(frozen=True)
class ClientConversation:
    """The client's messages as turns."""

    system: str
    history: tuple[ClientTurn, ...]
    turn: ClientTurn
    """The turn to answer; its reply ends with results of tools, with text to continue, or is
    empty."""
    characters: int
    """How many there are in all messages."""

    @property
    def images(self) -> tuple[PreparedImage, ...]:
        """The images of all messages."""
        turns = (*self.history, self.turn)
        return tuple(image for turn in turns for image in (*turn.images, *turn.result_images))

    @property
    def result_images(self) -> Mapping[str, bytes]:
        """The bytes of the images in results of tools, by hash."""
        turns = (*self.history, self.turn)
        images = (image for turn in turns for image in turn.result_images)
        return {each.image.sha256: each.content for each in images}

    @property
    def continues(self) -> bool:
        """Whether the reply has a beginning that the model continues."""
        return bool(self.turn.reply) and not self.turn.reply[-1].has_tool_results


@dataclass(frozen=True)
class TextPrompts:
    """Texts that are continued without a chat format."""

    texts: tuple[str, ...]
    """At least one; each gets the same number of replies."""
    suffix: str | None = None
    """The text after the gap that the reply fills; None to continue."""

    @property
    def characters(self) -> int:
        """How many there are in the longest prompt."""
        return max(map(len, self.texts)) + len(self.suffix or "")


@dataclass(frozen=True)
class GenerationRequest:
    """A parsed request for one or more replies to a conversation, or to texts."""

    model: str
    """As the client named it."""
    conversation: ClientConversation | TextPrompts
    sampling: Sampling = field(default_factory=Sampling)
    """`max_tokens` counts thoughts, too. A limit above the context is never reached."""
    thinking_field: str = "thinking"
    """The field that sets `sampling.thinking`."""
    thinking_is_switch: bool = False
    """Whether that field only turns thinking on, so that a model that always thinks obeys it."""
    thinking_is_wish: bool = False
    """Whether a model that cannot follow `sampling.thinking` thinks as it does."""
    tools: tuple[ToolDefinition, ...] = ()
    tool_choice: str = "auto"
    """`auto`, `required`, `none`, or the name of the tool to call."""
    parallel_tool_calls: bool = True
    """Whether the reply may call more than one tool."""
    logprobs: int | None = None
    """Number of top alternatives per token; None without log-probabilities."""
    choices: int = 1
    """How many replies to generate; with a seed, each to one prompt has the next one."""
    stream: bool = False
    keep_seconds: float | None = None
    """How long the model is kept in memory when nobody uses it; None for as long as usual."""


def check_fits(request: GenerationRequest, context_length: int) -> None:
    """Refuse messages and tools that cannot fit the context, before anything is computed for them.

    Raises:
        ApiError: they have too many characters.
    """
    count = request.conversation.characters
    count += sum(len(json.dumps(tool.to_dict())) for tool in request.tools)
    if count > MAX_CHARACTERS_PER_TOKEN * context_length:
        raise field_error(
            "prompt" if isinstance(request.conversation, TextPrompts) else "messages",
            f"{count:,} characters do not fit the context of {context_length:,} tokens.",
            "context_length_exceeded",
        )


def sampling_value(param: str, name: str, value: Any) -> Any:
    """Return a sampling setting's value after checking it.

    Raises:
        ApiError: it is out of range; `param` is named.
    """
    try:
        return Sampling.from_dict({name: value}).settings()[name]
    except UsageError as error:
        raise field_error(param, f"{error.message.removeprefix(f'{name} ')}.") from error


def limit_value(param: str, value: Any) -> int:
    """Return a limit of tokens after checking it; clients may ask for any number.

    Raises:
        ApiError: it is no positive integer; `param` is named.
    """
    if type(value) is not int or value < 1:
        raise field_error(param, "must be a positive integer.")
    return min(value, MAX_TOKENS)


def checked_schema(schema: Mapping[str, Any], path: str) -> Schema:
    """Return a schema after checking it.

    Raises:
        ApiError: it is no JSON schema; the path is named.
    """
    try:
        return parse_schema(dump_json(dict(schema)))  # as text, it is checked only once
    except UsageError as error:
        raise field_error(path, f"{error.message}.") from None


def tool_definition(
    name: str, description: str, parameters: tuple[str, Mapping[str, Any]], path: str
) -> ToolDefinition:
    """Return a tool after checking its name and the schema of its arguments.

    Args:
        name: the tool's.
        description: what it does.
        parameters: the field with the schema, and the schema.
        path: the tool's name in an error.

    Raises:
        ApiError: they are not as they must be.
    """
    if not 0 < len(name) <= MAX_TOOL_NAME or name.strip() != name:
        raise field_error(f"{path}.name", f"must be a name of 1 to {MAX_TOOL_NAME} characters.")
    field, schema = parameters
    return ToolDefinition(name, description, checked_schema(schema, f"{path}.{field}"))


def check_stop(param: str, value: Any) -> tuple[str, ...]:
    """Return stop strings after checking them.

    Raises:
        ApiError: they are too many, or not strings; `param` is named.
    """
    stops: tuple[str, ...] = sampling_value(param, "stop", value)
    if len(stops) > MAX_STOP_STRINGS:
        raise field_error(param, f"must be at most {MAX_STOP_STRINGS} strings, not {len(stops):,}.")
    return stops


def check_tools(
    tools: Sequence[ToolDefinition], tool_choice: str, path: str = "tools"
) -> tuple[ToolDefinition, ...]:
    """Return the tools after checking that they are not too many and the chosen one is there.

    Raises:
        ApiError: they are not as they must be.
    """
    if len(tools) > MAX_TOOLS:
        raise field_error(path, f"must be at most {MAX_TOOLS} tools, not {len(tools):,}.")
    names = [tool.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise field_error(f"{path}[{index}]", f"another tool is called {one_line(name, 60)!r}.")
    if tool_choice == "required" and not tools:
        raise field_error("tool_choice", "requires tools.")
    if tool_choice not in ("auto", "none", "required", *names):
        raise field_error("tool_choice", f"no tool is called {one_line(tool_choice, 60)!r}.")
    return tuple(tools)


def split_conversation(
    messages: Sequence[Message], *, may_continue: bool = False, path: str = "messages"
) -> ClientConversation:
    """Split messages into system prompt, earlier turns, and the turn to answer.

    Consecutive messages of one role are merged.

    Args:
        messages: those of the client. Results need not name their tools.
        may_continue: whether the last message may be the beginning of the reply.
        path: name of the messages in an error.

    Raises:
        ApiError: they cannot be answered.
    """
    if not 0 < len(messages) <= MAX_MESSAGES:
        raise field_error(path, f"must be 1 to {MAX_MESSAGES:,} messages, not {len(messages):,}.")
    merged = [_merge(list(group)) for _, group in groupby(messages, key=lambda each: each.role)]
    system = merged.pop(0).text if merged[0].role == "system" else ""
    turns: list[tuple[Message, list[ReplyStep]]] = []
    for message in merged:
        if message.role == "system":
            raise field_error(path, "system messages must come first.")
        if message.role == "user":
            _check_results(turns, path)
            if not message.text.strip() and all(isinstance(part, Text) for part in message.parts):
                raise field_error(path, "a user message is empty.")
            turns.append((message, []))
        elif not turns:
            raise field_error(
                path, "the first message after the system messages must be from the user."
            )
        elif message.role == "assistant":
            _check_results(turns, path)
            calls = any(isinstance(part, ToolCall) for part in message.parts)
            reason = StopReason.TOOL_CALLS if calls else StopReason.END
            turns[-1][1].append(ReplyStep(message.parts, reason))
        else:
            _add_results(turns[-1][1], message, path)
    _check_results(turns, path)
    if not turns:
        raise field_error(path, "there is no message from the user.")
    *history, last = (_make_turn(message, steps) for message, steps in turns)
    conversation = ClientConversation(system, tuple(history), last, sum(map(_characters, messages)))
    if conversation.continues and not may_continue:
        raise field_error(path, "the last message must be from the user, or the result of a tool.")
    return conversation


def _make_turn(message: Message, steps: Iterable[ReplyStep]) -> ClientTurn:
    question, images = split_images(message.parts)
    reply, result_images = [], []
    for step in steps:
        sent = [part.prepared() for part in step.parts if isinstance(part, ClientImage)]
        waiting = iter(sent)
        parts = (next(waiting).image if isinstance(p, ClientImage) else p for p in step.parts)
        reply.append(ReplyStep(tuple(parts), step.stop_reason))
        result_images += sent
    return ClientTurn(question, tuple(reply), images, tuple(result_images))


def _merge(messages: Sequence[Message]) -> Message:
    """Join messages of one role into one; texts of two messages are divided by a blank line."""
    parts: list[Part] = []
    for message in messages:
        for position, part in enumerate(message.parts):
            last = parts[-1] if parts else None
            if isinstance(part, Text) and isinstance(last, Text):
                divider = "" if position else "\n\n"
                parts[-1] = Text(last.text + divider + part.text)
            else:
                parts.append(part)
    return Message(messages[0].role, parts)


def _add_results(steps: list[ReplyStep], message: Message, path: str) -> None:
    """Add the results of tools, each with its images, to the step that called them."""
    last = steps[-1] if steps else ReplyStep()
    calls = {part.id: part.name for part in last.parts if isinstance(part, ToolCall)}
    results: list[Part] = []
    for part in message.parts:
        if isinstance(part, ClientImage):
            results.append(part)
            continue
        if not isinstance(part, ToolResult):
            raise field_error(path, "a tool's message has results only.")
        if part.call_id not in calls:
            raise field_error(
                path,
                f"the result of {one_line(part.call_id, 60)!r} does not follow a message with "
                "that tool call.",
            )
        results.append(ToolResult(part.call_id, calls.pop(part.call_id), part.text, part.is_error))
    steps[-1] = ReplyStep((*last.parts, *results), last.stop_reason)


def _check_results(turns: Sequence[tuple[Message, Sequence[ReplyStep]]], path: str) -> None:
    """Check that each call of the newest step has its result."""
    steps = turns[-1][1] if turns else ()
    parts = steps[-1].parts if steps else ()
    results = {part.call_id for part in parts if isinstance(part, ToolResult)}
    for part in parts:
        if isinstance(part, ToolCall) and part.id not in results:
            raise field_error(
                path, f"the result of the tool call {one_line(part.id, 60)!r} is missing."
            )


def _characters(message: Message) -> int:
    return sum(map(_part_characters, message.parts))


def _part_characters(part: Part) -> int:
    texts: Iterable[str] = (getattr(part, name, "") for name in ("text", "name", "arguments"))
    return sum(map(len, texts))
