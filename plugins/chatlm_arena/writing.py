"""Votes as examples to train from: the better replies, and pairs of a better and a worse one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from chatlm_arena.records import Ballot, Match, MatchReply
from chatlm_arena.votes import Verdict

Judged = Iterable[tuple[Ballot, Match]]


def sft(judged: Judged) -> Iterator[dict[str, Any]]:
    """The better replies as chats, `{"messages": […]}`: what `chatlm adapters train` reads, and
    TRL's SFTTrainer. Ties teach nothing."""
    for ballot, match in judged:
        if sides := _better_first(ballot, match):
            yield {"messages": [_user(sides[0][0]), *_answers(sides[0])]}


def dpo(judged: Judged) -> Iterator[dict[str, Any]]:
    """Prompt, chosen and rejected, each a list of messages: what TRL's DPOTrainer reads.

    Of a match with several turns the prompt is the first message, and what follows is the rest of
    both chats.
    """
    for ballot, match in judged:
        if sides := _better_first(ballot, match):
            better, worse = sides
            if [reply.text for reply in better] != [reply.text for reply in worse]:
                yield {
                    "prompt": [_user(better[0])],
                    "chosen": _answers(better),
                    "rejected": _answers(worse),
                }


def _better_first(
    ballot: Ballot, match: Match
) -> tuple[tuple[MatchReply, ...], tuple[MatchReply, ...]] | None:
    left, right = match.left_replies, match.right_replies
    if not left or not right or not all(reply.text.strip() for reply in (*left, *right)):
        return None
    match Verdict(ballot.verdict):
        case Verdict.LEFT:
            return left, right
        case Verdict.RIGHT:
            return right, left
    return None


def _user(reply: MatchReply) -> dict[str, str]:
    return {"role": "user", "content": reply.prompt}


def _answers(replies: tuple[MatchReply, ...]) -> list[dict[str, str]]:
    """All that follows the first message."""
    messages = []
    for turn, reply in enumerate(replies):
        if turn:
            messages.append(_user(reply))
        messages.append({"role": "assistant", "content": reply.text})
    return messages
