"""How well a statement answers a question: the order in which statements are quoted."""

from __future__ import annotations

from chatlm_rag.index.bm25 import stems
from chatlm_rag.reading.answer_types import type_evidence

TYPE_WEIGHT, COVERAGE_WEIGHT, PASSAGE_WEIGHT = 2.5, 2.0, 6.0
"""Weights beside the reader's log-odds: of naming what the question asks for, such as a date; of
the share of the question's words in the statement; of the score of the passage. They were chosen
with `benchmarks.relevance_fit`."""


def answer_score(question: str, statement: str, log_odds: float, passage_score: float) -> float:
    """Return how well a statement answers a question.

    Args:
        question: to answer.
        statement: of a passage.
        log_odds: the reader's score.
        passage_score: the fused score of its passage, 0 to 1.
    """
    return (
        log_odds
        + TYPE_WEIGHT * type_evidence(question, statement)
        + COVERAGE_WEIGHT * covered_share(question, statement)
        + PASSAGE_WEIGHT * passage_score
    )


def covered_share(question: str, statement: str) -> float:
    """Return the share of the question's words, by their stems, that a statement has, 0 to 1."""
    asked = set(stems(question))
    return len(asked & set(stems(statement))) / max(len(asked), 1)
