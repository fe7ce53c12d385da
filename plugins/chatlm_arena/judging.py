"""Judge answers with a model: pairwise verdicts in both orders, and ratings of single answers."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from chatlm import ContinuationUnsupported, Message, Sampling, SideChat, StopReason, one_line
from chatlm_arena.answers import Job, run_jobs
from chatlm_arena.records import Judgement, MatchReply
from chatlm_arena.votes import Verdict

MAX_ATTEMPTS = 3
"""Attempts at a verdict before the judge counts as undecided."""

CRITERIA = ("coherence", "informativeness", "factual accuracy")
"""The criteria by which answers are rated, each from -2 to 2."""

MAX_ANSWER_CHARACTERS = 4000
"""Longer answers are cut before the judge reads them."""

COMPARE_PROMPT = (
    "You are an impartial judge. Read what a user asked and two answers, A and B. Decide which "
    "answer helps the user more: it is right, to the point, and does what was asked. Neither order "
    "nor length makes an answer better. Say [[A]] if A is better, [[B]] if B is better, and [[C]] "
    "if they are equally good or bad."
)
RATE_PROMPT = (
    "You are an impartial judge. Read what a user asked and an answer. Rate the answer's {} with a "
    "whole number: -2 is very poor, -1 poor, 0 neither, 1 good, 2 very good."
)
VERDICT_PREFIX, RATING_PREFIX = "Verdict: [[", "Rating:"
"""Prefilled start of the judge's reply, which makes it give the verdict first; some servers repeat
it in their reply."""

_VERDICT = re.compile(r"\s*(?:(?:Verdict: ?)?\[\[)?\s*([ABC])\]\]")
_RATING = re.compile(r"\s*(?:Rating:)?\s*([-+\u2212]?[012])(?![\d.])")
_VERDICTS = {"A": Verdict.LEFT, "B": Verdict.RIGHT, "C": Verdict.TIE}


def compare_answers(
    judge: SideChat, left: Sequence[MatchReply], right: Sequence[MatchReply], seed: int
) -> Job[list[Judgement]]:
    """Ask for a verdict in both orders, each up to `MAX_ATTEMPTS` times.

    Args:
        judge: an empty chat.
        left: the left side's answers, one per turn.
        right: the right side's answers to the same messages.
        seed: seed of the first attempt; later ones add 1 each.
    """
    judgements = []
    for swapped in (False, True):
        one, other = (right, left) if swapped else (left, right)
        question = f"{_format_answers('Answer A', one)}\n\n{_format_answers('Answer B', other)}"
        for attempt in range(1, MAX_ATTEMPTS + 1):
            text = yield from _ask_judge(
                judge, COMPARE_PROMPT, question, VERDICT_PREFIX, attempt, seed
            )
            match = _VERDICT.match(text)
            verdict = _VERDICTS[match.group(1)] if match else None
            if verdict is not None and swapped:
                verdict = verdict.mirrored
            judgements.append(Judgement(swapped, attempt, text, verdict))
            if verdict is not None:
                break
    return judgements


def combine_orders(judgements: Iterable[Judgement]) -> Verdict | None:
    """Combine a judge's verdicts in both orders: a tie if they differ, None if one is missing."""
    verdicts = {one.swapped: one.verdict for one in judgements if one.verdict is not None}
    if len(verdicts) < 2:
        return None
    return verdicts[False] if verdicts[False] is verdicts[True] else Verdict.TIE


def majority_verdict(verdicts: Iterable[Verdict | None]) -> Verdict | None:
    """Return the most frequent verdict; a tie if two are equally frequent, None without any."""
    top = Counter(verdict for verdict in verdicts if verdict is not None).most_common(2)
    if not top:
        return None
    if len(top) > 1 and top[0][1] == top[1][1]:
        return Verdict.TIE
    return top[0][0]


def rate_answers(
    judge: SideChat, replies: Sequence[MatchReply], criterion: str, seed: int
) -> Job[tuple[int | None, str]]:
    """Ask for a rating of one side's answers.

    Args:
        judge: an empty chat.
        replies: the answers, one per turn.
        criterion: one of `CRITERIA`.
        seed: seed of the first attempt.

    Returns:
        The rating from -2 to 2, None without a valid one in `MAX_ATTEMPTS`; and the last reply.
    """
    text = ""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        system = RATE_PROMPT.format(criterion)
        question = _format_answers("Answer", replies)
        text = yield from _ask_judge(judge, system, question, RATING_PREFIX, attempt, seed)
        if match := _RATING.match(text):
            return int(match.group(1).replace("\u2212", "-")), text
    return None, text


def _ask_judge(
    judge: SideChat, system: str, question: str, reply_prefix: str, attempt: int, seed: int
) -> Job[str]:
    """Return the judge's reply after `reply_prefix`; greedy first, then sampled."""
    request = judge.request(question)
    messages = [message for message in request.messages if message.role != "system"]
    sampling = Sampling(
        temperature=0.0 if attempt == 1 else 0.7, max_tokens=8, seed=seed + attempt - 1
    )
    request = dataclasses.replace(
        request,
        messages=(Message("system", system), *messages),
        sampling=sampling.with_fallback(request.sampling),
    )
    prefilled = (*request.messages, Message("assistant", reply_prefix))
    try:
        return (yield dataclasses.replace(request, messages=prefilled))
    except ContinuationUnsupported:
        return (yield request)


def _format_answers(title: str, replies: Sequence[MatchReply]) -> str:
    """Format a side's answers with the messages they answer."""
    parts = []
    for reply in replies:
        text = reply.text if reply.has_answer else "(no answer)"
        cut = f"{text[:MAX_ANSWER_CHARACTERS]} …" if len(text) > MAX_ANSWER_CHARACTERS else text
        parts.append(f"User: {reply.prompt}\n{title}: {cut}")
    return f"[{title}]\n" + "\n".join(parts) + f"\n[End of {one_line(title, 20)}]"


class PairwiseJudge:
    """Compares two answers in both orders: the service `judge`."""

    def compare(
        self, chat: SideChat, prompt: str, first: str, second: str, seed: int = 0
    ) -> Literal["first", "second", "tie"] | None:
        """Return the better answer, `tie` where the orders disagree, None without a verdict."""
        left, right = ([MatchReply(0, 0, prompt, text, StopReason.END)] for text in (first, second))
        ((_, judgements),) = run_jobs(chat.engine, [compare_answers(chat, left, right, seed)])
        names: dict[Verdict | None, Literal["first", "second", "tie"]] = {
            Verdict.LEFT: "first",
            Verdict.RIGHT: "second",
            Verdict.TIE: "tie",
        }
        return names.get(combine_orders(judgements))
