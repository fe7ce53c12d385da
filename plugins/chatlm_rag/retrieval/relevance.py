"""Decide whether the hits of a search answer the question, by a calibrated confidence.

The confidence is that of a logistic regression on what the reader, the embedder and the words say.
Cosines and shared words alone cannot tell a question on the topic of the documents from one that
they answer; the reader can, in part. The coefficients were fitted to the collections that
`benchmarks.relevance_fit` names; `benchmarks.grounding` measures the confidence on others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING

from chatlm_rag.index.bm25 import stems
from chatlm_rag.reading.answer_types import type_evidence

if TYPE_CHECKING:
    from chatlm_rag.reading.reader import Reading
    from chatlm_rag.retrieval.hits import SearchHit


CONSIDERED_HITS = 8
"""Number of best hits that a search for an answer returns."""


READ_HITS = 5
"""Number of best hits that are read."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against an answer among the hits."""

    reader: float
    """The best score of a statement, in log-odds."""
    margin: float
    """By how much it is better than the best statement of any other passage, at most 5."""
    cosine: float
    """The best cosine of a hit with the question."""
    covered: float
    """Share of the question's words, weighted by IDF, in the best passage; 0 to 1."""
    typed: float
    """Whether the best statement names what the question asks for: 1, -1, or 0 if unknown."""


INTERCEPT = -2.3


COEFFICIENTS = Evidence(reader=0.6, margin=0.33, cosine=0.25, covered=2.2, typed=0.25)
"""Change of the log-odds by each kind of evidence."""


def gather(
    question: str,
    hits: Sequence[SearchHit],
    readings: Sequence[Reading],
    idf: Callable[[str], float],
) -> Evidence | None:
    """Gather the evidence for an answer; None without a statement.

    Args:
        question: to answer.
        hits: best first.
        readings: of the first hits.
        idf: inverse document frequency of a stem, above 0.
    """
    order = sorted(range(len(readings)), key=lambda at: -readings[at].best)
    if not order or not readings[order[0]].statements:
        return None
    best = readings[order[0]]
    other = readings[order[1]].best if len(order) > 1 else -math.inf
    statement = best.statements[best.scores.index(best.best)]
    weights = {stem: idf(stem) for stem in stems(question)}
    found = set(stems(hits[order[0]].chunk.indexed_text))
    covered = sum(weight for stem, weight in weights.items() if stem in found)
    return Evidence(
        reader=best.best,
        margin=min(best.best - other, 5.0),
        cosine=max(hit.dense.score for hit in hits),
        covered=covered / sum(weights.values()) if weights else 0.0,
        typed=type_evidence(question, statement),
    )


def confidence(evidence: Evidence | None) -> float:
    """Return the probability that the hits answer the question, 0 to 1."""
    if evidence is None:
        return 0.0
    terms = zip(astuple(COEFFICIENTS), astuple(evidence), strict=True)
    logit = INTERCEPT + sum(weight * value for weight, value in terms)
    return 1 / (1 + math.exp(-max(min(logit, 50.0), -50.0)))


def evidence_names() -> list[str]:
    """Return the kinds of evidence in the order of `COEFFICIENTS`."""
    return [each.name for each in fields(Evidence)]


TARGET_KEPT_RATE = 0.92
"""Share of the answerable questions that a calibrated threshold keeps."""


@dataclass(frozen=True)
class ThresholdPoint:
    """The effect of one threshold."""

    threshold: float
    kept_rate: float
    """Share of the answerable questions that it accepts."""
    refused_rate: float
    """Share of the unanswerable questions that it rejects."""


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
    left_out = len(answerable) - math.ceil(TARGET_KEPT_RATE * len(answerable))
    return sorted(answerable)[left_out]
