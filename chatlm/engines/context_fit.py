"""Fit a conversation into the context window by leaving out old turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from chatlm.errors import ContextTooLong
from chatlm.types.engine import EngineInfo
from chatlm.types.messages import Message
from chatlm.types.requests import Request


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt that fits the context window."""

    ids: list[int]
    included: tuple[int, ...]
    """Indices of its messages, ascending."""
    omitted: tuple[int, ...]
    """Indices of the messages left out, ascending."""


def compute_reply_reserve(request: Request, info: EngineInfo) -> int:
    """Return the tokens to reserve for the reply: its limit, at most a quarter of the context."""
    limit = info.context_length
    return min(
        request.sampling.with_fallback(info.default_sampling).max_tokens or limit, limit // 4
    )


def split_turns(messages: Sequence[Message]) -> list[list[int]]:
    """Return the indices of the messages after the system prompt, one list per turn."""
    turns: list[list[int]] = []
    for index, message in enumerate(messages):
        if index == 0 and message.role == "system":
            continue
        if message.role == "user" or not turns:
            turns.append([index])
        else:
            turns[-1].append(index)
    return turns


def fit_prompt(
    messages: Sequence[Message],
    encode: Callable[[Sequence[int]], list[int]],
    message_tokens: Sequence[int],
    *,
    context_length: int,
    reply_reserve: int,
    message_reserve: int = 0,
) -> FittedPrompt:
    """Return a prompt with enough turns left out to leave `reply_reserve` tokens for the reply.

    The system prompt, the newest turn and pinned ones always stay; other turns are dropped as a
    whole, the oldest first. A turn is pinned when one of its messages is.

    Turns are dropped in groups, each up to half of what old turns may take. If only as many left as
    must, the prompt would begin differently in every turn of a long chat and the prompt cache would
    be useless. Groups are counted from the beginning of the chat, so its messages alone determine
    what is dropped, and most turns drop what the one before dropped.

    Args:
        messages: system prompt first, if any.
        encode: returns the ids of messages by index; more messages never give fewer ids.
        message_tokens: approximate tokens of each message. With them a chat of any length is fitted
            without encoding much more than the context holds.
        context_length: limit of prompt and reply together, in tokens.
        reply_reserve: tokens to reserve for the reply; fewer remain where no turn can be dropped.
        message_reserve: tokens to reserve for a next message; the groups are the same with it.

    Raises:
        ContextTooLong: the messages that must stay leave not a single token for the reply.
    """
    turns = split_turns(messages)
    droppable = [turn for turn in turns[:-1] if not any(messages[index].pinned for index in turn)]

    def without(oldest: int) -> tuple[list[int], list[int]]:
        left_out = {index for turn in droppable[:oldest] for index in turn}
        kept = [index for index in range(len(messages)) if index not in left_out]
        return kept, encode(kept)

    limit = context_length - max(reply_reserve, 1)  # the reply has at least one token
    costs = [sum(message_tokens[index] for index in turn) for turn in droppable]
    newest = sum(message_tokens[index] for turn in turns[-1:] for index in turn)
    room = limit - (sum(message_tokens) - sum(costs) - newest)
    counts = [0, *_drop_counts(costs, room // 2)] if costs else [0]
    limit -= message_reserve
    freed, excess = [0, *accumulate(costs)], sum(message_tokens) - limit
    enough = (at for at, count in enumerate(counts) if freed[count] >= excess)
    choice = next(enough, len(counts) - 1)
    kept, ids = without(counts[choice])
    # the tokens of single messages are approximate
    while len(ids) > limit and choice < len(counts) - 1:
        choice += 1
        kept, ids = without(counts[choice])
    while choice and len((more := without(counts[choice - 1]))[1]) <= limit:
        choice -= 1
        kept, ids = more
    if len(ids) >= context_length:
        raise _context_too_long_error(len(ids), context_length, len(turns) - len(droppable) - 1)
    return FittedPrompt(ids, tuple(kept), tuple(sorted(set(range(len(messages))) - set(kept))))


def _drop_counts(costs: Sequence[int], group_limit: int) -> list[int]:
    """Return the numbers of oldest turns that may be dropped together, ascending.

    They are the ends of whole groups, and then each single turn of the last group, which is not
    complete as long as the chat grows.

    Args:
        costs: tokens of each turn.
        group_limit: tokens of a group; a longer turn is a group by itself.
    """
    ends, group = [], 0
    for number, cost in enumerate(costs):
        if group and group + cost > group_limit:
            ends.append(number)
            group = 0
        group += cost
    return [*ends, *range((ends or [0])[-1] + 1, len(costs) + 1)]


def _context_too_long_error(tokens: int, context_length: int, pinned: int) -> ContextTooLong:
    if pinned < 1:
        return ContextTooLong(
            f"Your message and the system prompt take {tokens} tokens; the context holds "
            f"{context_length}",
            hint="Shorten the message, or raise the limit with `chatlm config set context`.",
        )
    turns = "the pinned turn" if pinned == 1 else f"{pinned} pinned turns"
    return ContextTooLong(
        f"Your message, the system prompt and {turns} take {tokens} tokens; "
        f"the context holds {context_length}",
        hint="Shorten the message, or unpin a turn.",
    )
