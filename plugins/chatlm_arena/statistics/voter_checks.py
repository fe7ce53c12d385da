"""Warnings about votes that may mislead: repeated prompts, and voters that vote like bots."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from chatlm import one_line
from chatlm_arena.pairing import Z_95
from chatlm_arena.records import HUMAN, VoteFacts
from chatlm_arena.statistics.preference_model import (
    Ties,
    comparisons_from_votes,
    fit_preferences,
)
from chatlm_arena.votes import FloatArray, IntArray, Votes

MIN_VOTES = 20
"""Votes of one voter below which nothing is said about it."""

SUSPICION = 0.001
"""Chance that an honest voter is flagged by one check, divided by the number of voters."""

ONE_SIDE, SAME_VERDICT = 0.75, 0.95
"""Shares of the decided votes on one side, and of equal verdicts, from which a voter is flagged."""

CHARACTERS_PER_SECOND = 100.0
"""Faster reading of both answers is not believed: about 1,000 words a minute."""

TOO_FAST = 0.5
"""Share of votes that came faster than they can be read, from which a voter is flagged."""

MIN_REPEATS = 5
"""Repeated votes below which no warning is given."""

MAX_SHOWN = 3


@dataclass(frozen=True)
class VoteWarning:
    """Something about the votes that may mislead the ratings."""

    kind: str
    """`repeats`, `one_side`, `same_verdict`, `random` or `too_fast`."""
    subject: str
    """The voter, or the prompt."""
    votes: int
    """Number of the votes concerned."""
    text: str
    """A sentence for the user."""

    def to_dict(self) -> dict[str, str | int]:
        """Return the warning as plain values, ready for JSON."""
        return {
            "kind": self.kind,
            "subject": self.subject,
            "votes": self.votes,
            "text": self.text,
        }


def find_repeats(facts: Sequence[VoteFacts]) -> list[VoteWarning]:
    """Find prompts on which one voter voted several times about the same pair.

    Such votes are counted as if they were independent, although they may say the same thing again.
    Case, punctuation and spaces are ignored.
    """
    seen: Counter[tuple[str, str, int, int]] = Counter()
    shown: dict[str, str] = {}
    repeats: Counter[str] = Counter()
    known = 0
    for fact in facts:
        if fact.prompt is None:
            continue
        known += 1
        words = " ".join(re.findall(r"\w+", fact.prompt.casefold())) or fact.prompt
        key = (words, fact.judge, min(fact.left, fact.right), max(fact.left, fact.right))
        seen[key] += 1
        shown.setdefault(words, fact.prompt)
        if seen[key] > 1:
            repeats[words] += 1
    total = repeats.total()
    if total < MIN_REPEATS:
        return []
    often = "; ".join(
        f"“{one_line(shown[words], 40)}” {count + 1:,} times"
        for words, count in repeats.most_common(MAX_SHOWN)
    )
    return [
        VoteWarning(
            "repeats",
            shown[repeats.most_common(1)[0][0]],
            total,
            f"{total:,} of {known:,} votes repeat a prompt that the same voter had judged for "
            f"the same pair: {often}. They count as independent, so the intervals are too narrow.",
        )
    ]


def find_bots(votes: Votes, facts: Sequence[VoteFacts]) -> list[VoteWarning]:
    """Find voters that favour a side, always say the same, vote at random, or too fast.

    Args:
        votes: the votes.
        facts: the same votes' voters, texts and times, in the same order.
    """
    by_voter: dict[str, list[int]] = defaultdict(list)
    for number, fact in enumerate(facts):
        by_voter[fact.judge].append(number)
    large: dict[str, IntArray] = {
        voter: np.array(own, dtype=np.int64)
        for voter, own in by_voter.items()
        if len(own) >= MIN_VOTES
    }
    limit = SUSPICION / max(len(large), 1)
    names = {voter: "You" if voter == HUMAN else one_line(voter, 40) for voter in large}
    found: list[VoteWarning] = []
    for voter, at in large.items():
        for warning in (
            _one_side(voter, names[voter], votes.score[at], limit),
            _same_verdict(voter, names[voter], votes.score[at]),
            _too_fast(voter, names[voter], [facts[index] for index in at.tolist()]),
        ):
            if warning is not None:
                found.append(warning)
    suspects = {warning.subject for warning in found}
    for voter, at in large.items():
        others = [
            index
            for other, own in by_voter.items()
            if other != voter and other not in suspects
            for index in own
        ]
        others_at = np.array(sorted(others), dtype=np.int64)
        if warning := _random(voter, names[voter], votes, at, others_at, limit):
            found.append(warning)
    return found


def _one_side(voter: str, name: str, score: FloatArray, limit: float) -> VoteWarning | None:
    from scipy.stats import binomtest

    left, decided = int((score == 1).sum()), int((score != 0.5).sum())
    if decided < MIN_VOTES:
        return None
    share = max(left, decided - left) / decided
    if share < ONE_SIDE or binomtest(left, decided).pvalue > limit:
        return None
    side = "left" if 2 * left > decided else "right"
    text = f"{name} voted {side} in {share:.0%} of {decided:,} decided votes, whoever was there."
    return VoteWarning("one_side", voter, decided, text)


def _same_verdict(voter: str, name: str, score: FloatArray) -> VoteWarning | None:
    share = float((score == 0.5).mean())
    if share < SAME_VERDICT:
        return None
    text = f"{name} voted tie or both bad in {share:.0%} of {len(score):,} votes."
    return VoteWarning("same_verdict", voter, len(score), text)


def _random(
    voter: str, name: str, votes: Votes, at: IntArray, others: IntArray, limit: float
) -> VoteWarning | None:
    """Compare a voter with what the others' votes say for sure.

    Differences of strength count only as far as they exceed their own uncertainty, so that a voter
    is not accused by others who vote at random.
    """
    from scipy.stats import norm

    if len(others) < MIN_VOTES:
        return None
    rest = Votes(votes.names, votes.left[others], votes.right[others], votes.score[others])
    fit = fit_preferences(comparisons_from_votes(rest), Ties.HALF_WINS)
    met = np.bincount(np.concatenate([rest.left, rest.right]), minlength=len(votes.names)) > 0
    own = at[met[votes.left[at]] & met[votes.right[at]]]
    left, right = votes.left[own], votes.right[own]
    variance = np.diag(fit.covariance)
    error = np.sqrt(
        np.maximum(variance[left] + variance[right] - 2 * fit.covariance[left, right], 0.0)
    )
    gap = fit.log_strength[left] - fit.log_strength[right]
    gap = np.sign(gap) * np.maximum(np.abs(gap) - Z_95 * error, 0.0)
    chance = 1 / (1 + np.exp(-gap))
    lean, deviation = chance - 0.5, votes.score[own] - 0.5
    agreed, expected = float(lean @ deviation), float(lean @ lean)
    noise = float((lean**2 * 0.25).sum()) ** 0.5
    honest_noise = float((lean**2 * chance * (1 - chance)).sum()) ** 0.5
    if not noise or (expected - agreed) / max(honest_noise, 1e-12) < norm.isf(limit):
        return None
    if agreed / noise > norm.isf(0.05):
        return None  # less decided than others, but not at random
    text = f"{name} agrees with the others' ratings no more than chance, over {len(own):,} votes."
    return VoteWarning("random", voter, len(own), text)


def _too_fast(voter: str, name: str, facts: Sequence[VoteFacts]) -> VoteWarning | None:
    """Compare the time between two votes with that which reading takes; only of people."""
    times = [
        (fact.created - before.created).total_seconds() * CHARACTERS_PER_SECOND < fact.characters
        for before, fact in pairwise(facts)
        if voter == HUMAN
        and not fact.imported
        and fact.ranking_id is None
        and fact.characters is not None
    ]
    if len(times) < MIN_VOTES or sum(times) / len(times) < TOO_FAST:
        return None
    share = sum(times) / len(times)
    text = (
        f"{name} voted faster than both answers can be read in {share:.0%} of {len(times):,} votes."
    )
    return VoteWarning("too_fast", voter, len(times), text)
