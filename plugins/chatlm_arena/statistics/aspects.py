"""Ratings of single answers from -2 to 2: averages, correlations and reliability by aspect."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chatlm_arena.records import AspectRating
from chatlm_arena.statistics.agreement import Reliability, krippendorff_alpha

MIN_ANSWERS = 3
"""Answers below which no interval and no correlation is given."""


@dataclass(frozen=True)
class AspectMean:
    """A contestant's mean rating in one aspect."""

    contestant: str
    aspect: str
    mean: float
    """-2 to 2."""
    low: float
    high: float
    """Ends of the 95 % interval (Student's t over answers); nan with too few."""
    answers: int


@dataclass(frozen=True)
class AspectCorrelation:
    """Spearman's rank correlation of two aspects, or of an aspect with the votes."""

    one: str
    other: str
    value: float
    count: int


VOTES = "votes"
"""What an aspect is correlated with beside the other aspects."""


@dataclass(frozen=True)
class AspectReport:
    """What the ratings of single answers say."""

    means: tuple[AspectMean, ...]
    correlations: tuple[AspectCorrelation, ...]
    reliability: Mapping[str, Reliability | None]
    """By aspect; None where fewer than two judges rated the same answers."""


def report_aspects(
    ratings: Sequence[AspectRating], votes: Sequence[tuple[int, int, float]] = ()
) -> AspectReport:
    """Summarise ratings; an answer's value is the mean over its judges.

    Args:
        ratings: all ratings with a value.
        votes: id of the left reply, id of the right reply, and the left side's score.
    """
    values: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    by_judge: dict[str, dict[str, dict[Hashable, float]]] = defaultdict(lambda: defaultdict(dict))
    contestants: dict[int, str] = {}
    for rating in ratings:
        values[rating.aspect][rating.reply_id].append(rating.value)
        by_judge[rating.aspect][rating.judge][rating.reply_id] = rating.value
        contestants[rating.reply_id] = rating.contestant
    answer = {
        aspect: {reply: float(np.mean(given)) for reply, given in replies.items()}
        for aspect, replies in values.items()
    }
    return AspectReport(
        tuple(_means(answer, contestants)),
        tuple(_correlations(answer, votes)),
        {aspect: krippendorff_alpha(judges, "interval") for aspect, judges in by_judge.items()},
    )


def _means(
    answer: Mapping[str, Mapping[int, float]], contestants: Mapping[int, str]
) -> list[AspectMean]:
    from scipy.stats import t

    rows = []
    for name in dict.fromkeys(contestants.values()):
        for aspect, replies in answer.items():
            own = np.array([v for reply, v in replies.items() if contestants[reply] == name])
            if not len(own):
                continue
            half = math.nan
            if len(own) >= MIN_ANSWERS:
                half = float(t.ppf(0.975, len(own) - 1) * own.std(ddof=1) / math.sqrt(len(own)))
            mean = float(own.mean())
            rows.append(AspectMean(name, aspect, mean, mean - half, mean + half, len(own)))
    return rows


def _correlations(
    answer: Mapping[str, Mapping[int, float]], votes: Sequence[tuple[int, int, float]]
) -> list[AspectCorrelation]:
    rows = []
    aspects = list(answer)
    for number, one in enumerate(aspects):
        for other in aspects[number + 1 :]:
            both = [reply for reply in answer[one] if reply in answer[other]]
            pairs = [(answer[one][reply], answer[other][reply]) for reply in both]
            rows.append(_correlation(one, other, pairs))
    for aspect, replies in answer.items():
        pairs = [
            (replies[left] - replies[right], score)
            for left, right, score in votes
            if left in replies and right in replies
        ]
        if pairs:
            rows.append(_correlation(aspect, VOTES, pairs))
    return rows


def _correlation(one: str, other: str, pairs: Sequence[tuple[float, float]]) -> AspectCorrelation:
    from scipy.stats import spearmanr

    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    varies = len(table) >= MIN_ANSWERS and bool((np.ptp(table, axis=0) > 0).all())
    value = float(spearmanr(table[:, 0], table[:, 1]).statistic) if varies else math.nan
    return AspectCorrelation(one, other, value, len(table))
