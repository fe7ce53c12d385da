"""Decide whether the hits of a search answer the question, by a calibrated confidence.

The confidence is that of a logistic regression on what the reader, the embedder and the words say
about the statement that would be quoted first.
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
from chatlm_rag.reading.answer_scores import answer_score

if TYPE_CHECKING:
    from chatlm_rag.reading.reader import Reading
    from chatlm_rag.retrieval.hits import SearchHit


CONSIDERED_HITS = 8
"""Number of best hits that a search for an answer returns."""


READ_HITS = 3
"""Number of best hits that are read: with five, the confidence was no better."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against the statement that would be quoted first."""

    reader: float
    """The reader's score, in log-odds."""
    cosine: float
    """The cosine of its passage with the question."""
    covered: float
    """Share of the question's words, weighted by IDF, in its passage; 0 to 1."""
    stated: float
    """Share of the question's words, weighted by IDF, in the statement itself; 0 to 1."""


INTERCEPT = -2.23


COEFFICIENTS = Evidence(reader=0.32, cosine=2.12, covered=0.81, stated=1.63)
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
    choices = [
        (answer_score(question, statement, score, hit.score), score, statement, hit)
        for hit, reading in zip(hits, readings, strict=False)
        for statement, score in zip(reading.statements, reading.scores, strict=True)
    ]
    if not choices:
        return None
    _, score, statement, hit = max(choices, key=lambda choice: choice[0])
    weights = {stem: idf(stem) for stem in stems(question)}

    def share(text: str) -> float:
        found = set(stems(text))
        covered = sum(weight for stem, weight in weights.items() if stem in found)
        return covered / sum(weights.values()) if weights else 0.0

    return Evidence(
        reader=score,
        cosine=hit.dense.score,
        covered=share(hit.chunk.indexed_text),
        stated=share(statement),
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
