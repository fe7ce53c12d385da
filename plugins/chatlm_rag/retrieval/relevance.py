"""Decide whether search hits are relevant to the question, by a calibrated confidence.

The confidence is the mean of the best hit's cosine and the share of the question's words that occur
in the hits, weighted by their IDF. Neither suffices alone: the vectors of one topic are all close
together, and an answer may use other words than the question.

`THRESHOLD` is calibrated by `benchmarks.retrieval_abstaining` to accept 19 of 20 questions that the
documents answer. It rejects 7 of 8 off-topic questions, but only 1 of 4 that are on topic and whose
answer is missing. Ranking cannot tell those apart; the model has to say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chatlm_rag.index.bm25 import stems

if TYPE_CHECKING:
    from chatlm_rag.retrieval.hits import SearchHit


THRESHOLD = 0.55
"""Below this confidence, no hit counts as relevant."""


TARGET_KEPT_RATE = 0.95
"""Share of the answerable questions that a calibrated threshold accepts."""


CONSIDERED_HITS = 8
"""Number of best hits that the confidence is computed from."""


@dataclass(frozen=True)
class ThresholdPoint:
    """The effect of one threshold."""

    threshold: float
    kept_rate: float
    """Share of the answerable questions that it accepts."""
    refused_rate: float
    """Share of the unanswerable questions that it rejects."""


def confidence(query: str, hits: Sequence[SearchHit], idf: Callable[[str], float]) -> float:
    """Return the confidence that search hits are relevant to the question, about 0 to 1.

    Args:
        query: the question.
        hits: best first.
        idf: inverse document frequency of a stem, above 0.
    """
    best = hits[:CONSIDERED_HITS]
    max_cosine = max((hit.dense.score for hit in best), default=0.0)
    weights = {stem: idf(stem) for stem in stems(query)}
    if not weights:
        return max_cosine
    hit_stems = {stem for hit in best for stem in stems(hit.chunk.indexed_text)}
    covered = sum(weight for stem, weight in weights.items() if stem in hit_stems)
    return (max_cosine + covered / sum(weights.values())) / 2


def threshold_curve(
    answerable: Sequence[float], unanswerable: Sequence[float]
) -> list[ThresholdPoint]:
    """Return the effect of each distinct threshold, in ascending order.

    Args:
        answerable: confidences of questions that the documents answer; at least one.
        unanswerable: confidences of questions that they do not answer; at least one.
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
    """Return the highest threshold that accepts `TARGET_KEPT_RATE` of the answerable questions."""
    return sorted(answerable)[int((1 - TARGET_KEPT_RATE) * len(answerable))]


def cross_validate(
    answerable: Mapping[str, Sequence[float]], unanswerable: Mapping[str, Sequence[float]]
) -> ThresholdPoint:
    """Evaluate calibration by leave-one-document-out cross-validation.

    Args:
        answerable: confidences by the document that the question is about; at least two documents.
        unanswerable: likewise.

    Returns:
        The mean threshold, and the rates over all questions, each judged by the threshold that was
        calibrated on the other documents.
    """
    thresholds, accepted, rejected = [], [], []
    for held_out in answerable:
        others = [v for name, values in answerable.items() if name != held_out for v in values]
        threshold = calibrate(others)
        thresholds.append(threshold)
        accepted += [value >= threshold for value in answerable[held_out]]
        rejected += [value < threshold for value in unanswerable.get(held_out, ())]
    return ThresholdPoint(
        sum(thresholds) / len(thresholds),
        sum(accepted) / len(accepted),
        sum(rejected) / len(rejected),
    )
