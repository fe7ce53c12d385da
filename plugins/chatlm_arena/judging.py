"""Judge answers with a model: pairwise verdicts in both orders, and ratings of single answers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Literal

from chatlm import ContinuationUnsupported, Message, Sampling, SideChat, StopReason, one_line
from chatlm_arena.answers import Job, run_jobs
from chatlm_arena.records import Judgement, MatchReply
from chatlm_arena.rubrics import Rubric
from chatlm_arena.votes import Verdict

MAX_ATTEMPTS = 3
"""Attempts at a verdict before the judge counts as undecided."""

MAX_REASON_TOKENS = 300
"""Tokens of a judge's reasons."""

DEFAULT = Rubric()

CRITERIA = ("coherence", "informativeness", "factual accuracy")
"""The criteria by which answers are rated, each from -2 to 2."""

MAX_ANSWER_CHARACTERS = 4000
"""Longer answers are cut before the judge reads them."""

RATE_PROMPT = (
    "You are an impartial judge. Read what a user asked and an answer. Rate the answer's {} with a "
    "whole number: -2 is very poor, -1 poor, 0 neither, 1 good, 2 very good."
)
VERDICT_PREFIX, RATING_PREFIX = "Verdict: [[", "Rating:"
"""Prefilled start of the judge's reply, which makes it give the verdict first; some servers repeat
it in their reply."""

_VERDICT = re.compile(r"\s*(?:(?:Verdict: ?)?\[\[)?\s*([ABC])\]\]")
_BRACKETS = re.compile(r"\[\[([ABC])\]\]")
_RATING = re.compile(r"\s*(?:Rating:)?\s*([-+\u2212]?[012])(?![\d.])")
_VERDICTS = {"A": Verdict.LEFT, "B": Verdict.RIGHT, "C": Verdict.TIE}


def compare_answers(
    judge: SideChat,
    left: Sequence[MatchReply],
    right: Sequence[MatchReply],
    seed: int,
    rubric: Rubric = DEFAULT,
) -> Job[list[Judgement]]:
    """Ask for a verdict in both orders, each up to `MAX_ATTEMPTS` times.

    Args:
        judge: an empty chat.
        left: the left side's answers, one per turn.
        right: the right side's answers to the same messages.
        seed: seed of the first attempt; later ones add 1 each.
        rubric: what the judge looks for; with reasoning, its reasons are part of the judgement.
    """
    judgements = []
    for swapped in (False, True):
        one, other = (right, left) if swapped else (left, right)
        question = f"{_format_answers('Answer A', one)}\n\n{_format_answers('Answer B', other)}"
        for attempt in range(1, MAX_ATTEMPTS + 1):
            if rubric.reasoning:
                text, letter = yield from _reason(judge, rubric, question, attempt, seed)
            else:
                text = yield from _ask_judge(
                    judge, rubric.system, question, VERDICT_PREFIX, attempt, seed
                )
                match = _VERDICT.match(text)
                letter = match.group(1) if match else None
            verdict = _VERDICTS[letter] if letter else None
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


def majority_verdict(
    verdicts: Sequence[Verdict | None], weights: Sequence[float] | None = None
) -> Verdict | None:
    """Return the verdict with the most weight; a tie if two have the same, None without any.

    Args:
        verdicts: one of each judge; None for a judge without one.
        weights: of the judges, 0 or more; None for 1 each.
    """
    totals: dict[Verdict, float] = {}
    for verdict, weight in zip(verdicts, weights or [1.0] * len(verdicts), strict=True):
        if verdict is not None and weight > 0:
            totals[verdict] = totals.get(verdict, 0.0) + weight
    top = sorted(totals, key=lambda verdict: -totals[verdict])[:2]
    if not top:
        return None
    if len(top) > 1 and totals[top[0]] - totals[top[1]] < 1e-9:
        return Verdict.TIE
    return top[0]


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


def _reason(
    judge: SideChat, rubric: Rubric, question: str, attempt: int, seed: int
) -> Job[tuple[str, str | None]]:
    """Return the judge's reasons with its verdict, and the verdict's letter if there is one.

    Without a verdict at their end, the judge is asked for one after its reasons.
    """
    reasons = yield from _ask_judge(
        judge, rubric.system, question, "", attempt, seed, max_tokens=MAX_REASON_TOKENS
    )
    found = _BRACKETS.findall(reasons)
    if found:
        return reasons, found[-1]
    prefix = f"{reasons.strip()}\n\n{VERDICT_PREFIX}"
    text = yield from _ask_judge(judge, rubric.system, question, prefix, attempt, seed)
    match = _VERDICT.match(text.removeprefix(reasons.strip()))
    return prefix + text, match.group(1) if match else None


def _ask_judge(
    judge: SideChat,
    system: str,
    question: str,
    reply_prefix: str,
    attempt: int,
    seed: int,
    *,
    max_tokens: int = 8,
) -> Job[str]:
    """Return the judge's reply after `reply_prefix`, if any; greedy first, then sampled."""
    request = judge.request(question)
    messages = [message for message in request.messages if message.role != "system"]
    sampling = Sampling(
        temperature=0.0 if attempt == 1 else 0.7,
        max_tokens=max_tokens,
        seed=seed + attempt - 1,
    )
    request = dataclasses.replace(
        request,
        messages=(Message("system", system), *messages),
        sampling=sampling.with_fallback(request.sampling),
    )
    if not reply_prefix:
        return (yield request)
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
