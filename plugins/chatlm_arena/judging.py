"""A model as the judge of two answers, asked in both orders; knows no storage."""

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
"""So often a judge is asked for a verdict before it has none."""

CRITERIA = ("coherence", "informativeness", "factual accuracy")
"""What answers are rated for, each from -2 to 2."""

MAX_ANSWER_CHARACTERS = 4000
"""Characters of each answer that the judge reads."""

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
"""How the judge's reply begins, so that it comes to the point; some servers begin it once more."""

_VERDICT = re.compile(r"\s*(?:(?:Verdict: ?)?\[\[)?\s*([ABC])\]\]")
_RATING = re.compile(r"\s*(?:Rating:)?\s*([-+\u2212]?[012])(?![\d.])")
_VERDICTS = {"A": Verdict.LEFT, "B": Verdict.RIGHT, "C": Verdict.TIE}


def compare_answers(
    judge: SideChat, left: Sequence[MatchReply], right: Sequence[MatchReply], seed: int
) -> Job[list[Judgement]]:
    """Ask for a verdict in both orders, each up to `ATTEMPTS` times.

    Args:
        judge: a chat in which nothing was said yet.
        left: the answers of the left side, one a turn.
        right: those of the right side, to the same messages.
        seed: of the first attempt; the others take those after it.
    """
    said = []
    for turned in (False, True):
        one, other = (right, left) if turned else (left, right)
        question = f"{_format_answers('Answer A', one)}\n\n{_format_answers('Answer B', other)}"
        for attempt in range(1, MAX_ATTEMPTS + 1):
            text = yield from _ask_judge(
                judge, COMPARE_PROMPT, question, VERDICT_PREFIX, attempt, seed
            )
            found = _VERDICT.match(text)
            verdict = _VERDICTS[found.group(1)] if found else None
            if verdict is not None and turned:
                verdict = verdict.mirrored
            said.append(Judgement(turned, attempt, text, verdict))
            if verdict is not None:
                break
    return said


def combine_orders(judgements: Iterable[Judgement]) -> Verdict | None:
    """What a judge's verdicts in both orders come to: a tie where they disagree, None where one
    order has none."""
    found = {one.swapped: one.verdict for one in judgements if one.verdict is not None}
    if len(found) < 2:
        return None
    return found[False] if found[False] is found[True] else Verdict.TIE


def majority_verdict(verdicts: Iterable[Verdict | None]) -> Verdict | None:
    """What most of a panel say; a tie where two verdicts have as many, None without any."""
    counted = Counter(verdict for verdict in verdicts if verdict is not None).most_common(2)
    if not counted:
        return None
    if len(counted) > 1 and counted[0][1] == counted[1][1]:
        return Verdict.TIE
    return counted[0][0]


def rate_answers(
    judge: SideChat, replies: Sequence[MatchReply], criterion: str, seed: int
) -> Job[tuple[int | None, str]]:
    """Ask for a rating of one side's answers.

    Args:
        judge: a chat in which nothing was said yet.
        replies: one a turn.
        criterion: one of `CRITERIA`.
        seed: of the first attempt.

    Returns:
        -2 to 2, None where the judge gave none in `ATTEMPTS`; and what it said last.
    """
    text = ""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        system = RATE_PROMPT.format(criterion)
        question = _format_answers("Answer", replies)
        text = yield from _ask_judge(judge, system, question, RATING_PREFIX, attempt, seed)
        if found := _RATING.match(text):
            return int(found.group(1).replace("\u2212", "-")), text
    return None, text


def _ask_judge(
    judge: SideChat, system: str, question: str, reply_prefix: str, attempt: int, seed: int
) -> Job[str]:
    """What the judge says after `reply_prefix`; greedy at first, then by chance."""
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
    begun = (*request.messages, Message("assistant", reply_prefix))
    try:
        return (yield dataclasses.replace(request, messages=begun))
    except ContinuationUnsupported:
        return (yield request)


def _format_answers(title: str, replies: Sequence[MatchReply]) -> str:
    """A side's answers with the messages they answer."""
    parts = []
    for reply in replies:
        text = reply.text if reply.stop_reason is not StopReason.ERROR else "(no answer)"
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
