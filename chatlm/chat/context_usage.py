"""Measurement of how much of the context window each turn of a chat takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatlm.errors import ContextTooLong, ModelError
from chatlm.types.conversations import Conversation
from chatlm.types.engine import Engine
from chatlm.types.messages import Message
from chatlm.types.requests import Request, ToolDefinition
from chatlm.types.sampling import Sampling


@dataclass(frozen=True)
class ContextUsage:
    """The tokens of a chat, turn by turn."""

    turn_tokens: Mapping[int, int]
    """Turn id -> tokens under its context policy: 0 for a dropped turn, those of the summary for a
    summarised one. Turns that do not fit are counted too."""
    omitted_turns: frozenset[int]
    """Ids of the turns that do not fit."""
    system_tokens: int
    """Tokens of the system prompt, or of the one that the model's chat format inserts, and of the
    tools offered to the model."""
    used_tokens: int
    """Tokens of the prompt; more than `context_length` if what must stay does not fit."""
    context_length: int
    """Maximum number of tokens of prompt and reply together."""
    reply_reserve: int
    """Tokens of it that are reserved for the reply."""
    tool_count: int = 0
    """Number of tools offered to the model."""
    tool_tokens: int = 0
    """Tokens of `system_tokens` that describe them."""


def measure_context(
    conversation: Conversation,
    engine: Engine,
    sampling: Sampling,
    tools: Sequence[ToolDefinition] = (),
) -> ContextUsage:
    """Measure a chat's prompt, without plugins.

    Args:
        conversation: the chat; without turns, its system prompt is measured.
        engine: encodes the prompt.
        sampling: the user's settings for it; `max_tokens` is reserved for the reply.
        tools: those offered to the model, whose tokens count as the system prompt's.

    Raises:
        ContextTooLong: the newest message and the system prompt alone do not fit.
        ModelError: the model's format refuses the chat.
    """
    if tools:
        return _with_tools(conversation, engine, sampling, tools)
    head = int(bool(conversation.system_prompt))
    own = 0 if head else builtin_system_tokens(engine)
    turns = [turn.id for turn in conversation.turns for _ in turn.messages()]
    messages = conversation.messages()
    if not turns:
        messages += (Message("user", ""),)  # some formats refuse a system prompt by itself
    request = Request(messages, sampling)
    try:
        prompt = engine.preview(request)
        used, left_out = len(prompt.tokens), prompt.omitted
    except ContextTooLong:
        loose = tuple(dataclasses.replace(message, pinned=False) for message in messages)
        prompt = engine.preview(dataclasses.replace(request, messages=loose))
        stays = _always_included(messages, turns, head)
        used = sum(cost for cost, stay in zip(prompt.message_tokens, stays, strict=True) if stay)
        used += 0 if stays[0] else own
        left_out = tuple(index for index, stay in enumerate(stays) if not stay)
    costs = {turn.id: 0 for turn in conversation.turns}
    for turn_id, cost in zip(turns, prompt.message_tokens[head:], strict=False):
        costs[turn_id] += cost
    for turn_id in turns[:1]:
        costs[turn_id] -= own  # it precedes the first message, whichever that is
    return ContextUsage(
        turn_tokens=costs,
        omitted_turns=frozenset(turns[index - head] for index in left_out),
        system_tokens=prompt.message_tokens[0] if head else own,
        used_tokens=used,
        context_length=prompt.context_length,
        reply_reserve=prompt.reply_reserve,
    )


def _with_tools(
    conversation: Conversation,
    engine: Engine,
    sampling: Sampling,
    tools: Sequence[ToolDefinition],
) -> ContextUsage:
    """As `measure_context`; the turns cost what they cost without tools."""
    plain = measure_context(conversation, engine, sampling)
    extra = count_tool_tokens(engine, tools)
    turns = [turn.id for turn in conversation.turns for _ in turn.messages()]
    used, omitted = plain.used_tokens + extra, plain.omitted_turns
    if turns:
        request = Request(conversation.messages(), sampling, tools=tuple(tools))
        try:
            prompt = engine.preview(request)
        except ContextTooLong:
            pinned = {
                turn.id
                for turn in conversation.turns
                if any(message.pinned for message in turn.messages())
            }
            omitted = frozenset(turns) - pinned - {turns[-1]}
        else:
            head = int(bool(conversation.system_prompt))
            used = len(prompt.tokens)
            omitted = frozenset(turns[index - head] for index in prompt.omitted)
    return dataclasses.replace(
        plain,
        system_tokens=plain.system_tokens + extra,
        used_tokens=used,
        omitted_turns=omitted,
        tool_count=len(tools),
        tool_tokens=extra,
    )


def count_tool_tokens(engine: Engine, tools: Sequence[ToolDefinition]) -> int:
    """Count the tokens of a prompt that describe tools."""
    asked = Request((Message("user", ""),))
    told = dataclasses.replace(asked, tools=tuple(tools))
    return len(engine.preview(told).tokens) - len(engine.preview(asked).tokens)


def builtin_system_tokens(engine: Engine) -> int:
    """Count the tokens of the system prompt that the chat format inserts if there is none."""
    asked = Message("user", "")
    try:
        given = engine.preview(Request((Message("system", ""), asked)))
        return engine.preview(Request((asked,))).message_tokens[0] - given.message_tokens[1]
    except ModelError:  # a format without system prompts inserts none
        return 0


def _always_included(
    messages: tuple[Message, ...], turn_ids: list[int], system_count: int
) -> list[bool]:
    """Return whether each message is always included: system prompt, pinned and newest turns."""
    newest = turn_ids[-1] if turn_ids else None
    return [
        index < system_count or message.pinned or turn_ids[index - system_count] == newest
        for index, message in enumerate(messages)
    ]
