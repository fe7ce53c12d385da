"""How much of the context a chat takes, turn by turn; knows no screen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from chatlm.errors import ContextTooLong, ModelError
from chatlm.types.engine import Engine
from chatlm.types.messages import Conversation, Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling


@dataclass(frozen=True)
class ContextUsage:
    """A chat in tokens."""

    turn_tokens: Mapping[int, int]
    """Turn id to what the turn takes as it stands: 0 for a dropped one, its summary's tokens for a
    summarised one; those that do not fit have theirs too."""
    omitted_turns: frozenset[int]
    """Ids of the turns that would be read, but do not fit."""
    system_tokens: int
    """What the system prompt takes; without one, what the model's format puts in its place."""
    used_tokens: int
    """All that is read; more than `limit` when what must stay does not fit."""
    context_length: int
    """What prompt and reply may take together."""
    reply_reserve: int
    """What is kept of it for the reply."""


def measure_context(conversation: Conversation, engine: Engine, sampling: Sampling) -> ContextUsage:
    """Measure a chat as it would be read now; plugins are not asked.

    Args:
        conversation: the chat; without turns, its system prompt is measured.
        engine: counts.
        sampling: the person's settings for it; they say how long a reply may be.

    Raises:
        ContextTooLong: the newest message and the system prompt alone do not fit.
        ModelError: the model's format refuses the chat.
    """
    head = int(bool(conversation.system))
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
        costs[turn_id] -= own  # it stands before the first message, whichever that is
    return ContextUsage(
        turn_tokens=costs,
        omitted_turns=frozenset(turns[index - head] for index in left_out),
        system_tokens=prompt.message_tokens[0] if head else own,
        used_tokens=used,
        context_length=prompt.context_length,
        reply_reserve=prompt.reply_reserve,
    )


def builtin_system_tokens(engine: Engine) -> int:
    """Tokens of the system prompt that the model's format writes by itself where none is given."""
    asked = Message("user", "")
    try:
        given = engine.preview(Request((Message("system", ""), asked)))
        return engine.preview(Request((asked,))).message_tokens[0] - given.message_tokens[1]
    except ModelError:  # a format that takes no system prompt has none of its own
        return 0


def _always_included(
    messages: tuple[Message, ...], turn_ids: list[int], system_count: int
) -> list[bool]:
    """Which messages are never left out: the system prompt, pinned turns and the newest."""
    newest = turn_ids[-1] if turn_ids else None
    return [
        index < system_count or message.pinned or turn_ids[index - system_count] == newest
        for index, message in enumerate(messages)
    ]
