"""Fits a conversation into a model's context; knows only how many tokens messages take."""

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
    """A prompt that fits."""

    ids: list[int]
    included: tuple[int, ...]
    """Indices of the messages that are in it, in order."""
    omitted: tuple[int, ...]
    """Indices of the others, in order."""


def compute_reply_reserve(request: Request, info: EngineInfo) -> int:
    """Tokens to keep free for the reply: what it may take, but no more than a quarter."""
    limit = info.context_length
    return min(
        request.sampling.with_fallback(info.default_sampling).max_tokens or limit, limit // 4
    )


def split_turns(messages: Sequence[Message]) -> list[list[int]]:
    """Indices of the messages behind the system prompt, cut before each user message."""
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
    message_tokens: Callable[[], Sequence[int]],
    *,
    context_length: int,
    reply_reserve: int,
) -> FittedPrompt:
    """The prompt with as many turns as leave `reply_reserve` tokens for the reply.

    The system prompt, the newest turn and pinned ones always stay; other turns leave whole, the
    oldest first. A turn is pinned when one of its messages is.

    Args:
        messages: system prompt first, if any.
        encode: ids of the messages with these indices; more messages never take fewer tokens.
        message_tokens: about how many tokens each message takes; asked for when not all fit.
        context_length: tokens that prompt and reply may have together.
        reply_reserve: tokens to keep free for the reply; less is kept where no more turns may
            leave.

    Raises:
        ContextTooLong: what has to stay leaves no room for a single new token.
    """
    turns = split_turns(messages)
    loose = [turn for turn in turns[:-1] if not any(messages[index].pinned for index in turn)]

    def without(oldest: int) -> tuple[list[int], list[int]]:
        left = {index for turn in loose[:oldest] for index in turn}
        kept = [index for index in range(len(messages)) if index not in left]
        return kept, encode(kept)

    room = context_length - max(
        reply_reserve, 1
    )  # without a reserve too, one new token needs a place
    kept, ids = without(0)
    if len(ids) > room:
        leaving = _count_turns_to_drop(loose, message_tokens(), len(ids) - room)
        kept, ids = without(leaving)
        while len(ids) > room and leaving < len(loose):
            leaving += 1
            kept, ids = without(leaving)
        while leaving > 1 and len((more := without(leaving - 1))[1]) <= room:
            leaving -= 1
            kept, ids = more
    if len(ids) >= context_length:
        raise _context_too_long_error(len(ids), context_length, len(turns) - len(loose) - 1)
    return FittedPrompt(ids, tuple(kept), tuple(sorted(set(range(len(messages))) - set(kept))))


def _count_turns_to_drop(
    turns: Sequence[Sequence[int]], message_tokens: Sequence[int], excess: int
) -> int:
    """How many of the turns, from the first, take so many tokens; all, if they take fewer."""
    taken = accumulate(sum(message_tokens[index] for index in turn) for turn in turns)
    return next((count for count, so_far in enumerate(taken, 1) if so_far >= excess), len(turns))


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
