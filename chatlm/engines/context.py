"""Fits a conversation into a model's context; knows only how many tokens messages take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chatlm.errors import ContextTooLong
from chatlm.messages import Message


@dataclass(frozen=True)
class Fit:
    """A prompt that fits."""

    ids: list[int]
    left_out: tuple[Message, ...]


def turns_of(messages: Sequence[Message]) -> list[tuple[Message, ...]]:
    """The messages after the system prompt, cut before each user message."""
    turns: list[tuple[Message, ...]] = []
    for message in messages:
        if message.role == "user" or not turns:
            turns.append((message,))
        else:
            turns[-1] = (*turns[-1], message)
    return turns


def fit(
    messages: Sequence[Message],
    encode: Callable[[Sequence[Message]], list[int]],
    *,
    limit: int,
    reserve: int,
) -> Fit:
    """The prompt with as many of the newest turns as leave `reserve` tokens for the reply.

    The system prompt and the newest turn always stay; whole turns leave, oldest first.

    Args:
        messages: system prompt first, if any.
        encode: ids of messages; more messages never take fewer tokens.
        limit: tokens that prompt and reply may have together.
        reserve: tokens to keep free for the reply; less is kept where only the newest turn is left.

    Raises:
        ContextTooLong: system prompt and newest turn leave no room for a single new token.
    """
    head = tuple(messages[:1]) if messages and messages[0].role == "system" else ()
    turns = turns_of(messages[len(head) :])

    def prompt(dropped: int) -> list[int]:
        return encode([*head, *(message for turn in turns[dropped:] for message in turn)])

    low, high = 0, max(len(turns) - 1, 0)
    ids = prompt(0)
    if len(ids) > limit - reserve:
        while low < high:
            middle = (low + high) // 2
            if len(prompt(middle)) <= limit - reserve:
                high = middle
            else:
                low = middle + 1
        ids = prompt(low)
    if len(ids) >= limit:
        raise ContextTooLong(
            f"Your message and the system prompt take {len(ids)} tokens; the context holds {limit}",
            hint="Shorten the message, or raise the limit with `chatlm config set context`.",
        )
    return Fit(ids, tuple(message for turn in turns[:low] for message in turn))
