"""Whether what was found has to do with the question at all; knows no index and no command.

The confidence joins how near the nearest passage is with how much of the question the passages
speak of: the part of its words that stands in them, rare words counting more. Neither is enough:
vectors of one topic are all near each other, and words may be others in the answer.

`THRESHOLD` was calibrated by `benchmarks.retrieval_abstaining` to keep 19 of 20 questions that the
documents answer. It turns away 7 of 8 questions about other things, but only 1 of 4 that are on
the topic and lack nothing but the answer: no ranking tells those apart, the reply has to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chatlm_rag.index.bm25 import stems

if TYPE_CHECKING:
    from chatlm_rag.retrieval.hits import SearchHit


THRESHOLD = 0.55
"""Below it nothing that was found is relevant."""


TARGET_KEPT_RATE = 0.95
"""The part of the answerable questions that a threshold has to keep."""


CONSIDERED_HITS = 8
"""The best so many passages are looked at."""


@dataclass(frozen=True)
class ThresholdPoint:
    """What one threshold would do."""

    threshold: float
    kept_rate: float
    """Which part of the answerable questions it keeps."""
    refused_rate: float
    """Which part of the unanswerable ones it turns away."""


def confidence(query: str, hits: Sequence[SearchHit], idf: Callable[[str], float]) -> float:
    """How sure it is that the passages have to do with the question, about 0 to 1.

    Args:
        query: the question.
        hits: what was found, best first.
        idf: how much a stem counts, more than 0.
    """
    best = hits[:CONSIDERED_HITS]
    nearest = max((each.dense.score for each in best), default=0.0)
    asked = {stem: idf(stem) for stem in stems(query)}
    if not asked:
        return nearest
    there = {stem for each in best for stem in stems(each.chunk.indexed_text)}
    covered = sum(weight for stem, weight in asked.items() if stem in there)
    return (nearest + covered / sum(asked.values())) / 2


def threshold_curve(
    answerable: Sequence[float], unanswerable: Sequence[float]
) -> list[ThresholdPoint]:
    """What each threshold that makes a difference would do, from low to high.

    Args:
        answerable: the confidences of questions that the documents answer; at least one.
        unanswerable: those of questions that they do not; at least one.
    """
    return [
        ThresholdPoint(
            threshold,
            sum(value >= threshold for value in answerable) / len(answerable),
            sum(value < threshold for value in unanswerable) / len(unanswerable),
        )
        for threshold in sorted({*answerable, *unanswerable})
    ]


def calibrate(answerable: Sequence[float]) -> float:
    """The highest threshold that keeps `KEPT` of the answerable questions' confidences."""
    return sorted(answerable)[int((1 - TARGET_KEPT_RATE) * len(answerable))]


def cross_validate(
    answerable: Mapping[str, Sequence[float]], unanswerable: Mapping[str, Sequence[float]]
) -> ThresholdPoint:
    """What calibrated thresholds do to questions about documents they were not calibrated on.

    Args:
        answerable: the confidences, by the document that is asked about; at least two documents.
        unanswerable: likewise.

    Returns:
        the mean threshold, and what was kept and refused of all questions, each group judged by
        the threshold of the others.
    """
    thresholds, kept, refused = [], [], []
    for held_out in answerable:
        others = [v for name, values in answerable.items() if name != held_out for v in values]
        threshold = calibrate(others)
        thresholds.append(threshold)
        kept += [value >= threshold for value in answerable[held_out]]
        refused += [value < threshold for value in unanswerable.get(held_out, ())]
    return ThresholdPoint(
        sum(thresholds) / len(thresholds), sum(kept) / len(kept), sum(refused) / len(refused)
    )
