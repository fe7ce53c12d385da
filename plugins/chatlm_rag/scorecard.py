"""How well an index answers test questions, by meaning, by words and by both.

A document counts by its best piece. The measures are those of trec_eval, and their means are over
all questions that have a document which answers them; intervals come from drawing the questions
anew, with replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from operator import attrgetter
from typing import TYPE_CHECKING

from chatlm import UsageError
from chatlm_rag.passages import Piece
from chatlm_rag.searching import Index

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KINDS = ("dense", "lexical", "fused")

DRAWS = 1000
"""How often the questions are drawn anew."""

_DEPTH = 1000
"""Candidates by each kind: enough for 100 documents of several pieces each."""
_DOCUMENTS = 100
"""No measure looks further down."""


@dataclass(frozen=True)
class Figure:
    """A mean, with the interval that has it in 95 of 100 draws."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Scorecard:
    """What `evaluate` found."""

    questions: int
    documents: int
    """In the index."""
    missing: int
    """Documents that would answer a question and are not in the index; they count as not found."""
    figures: Mapping[str, Mapping[str, Figure]]
    """By kind and measure, 0 to 1."""
    gains: Mapping[str, Figure]
    """By how much the fused nDCG@10 is above that of each other kind, question by question."""


def evaluate(
    index: Index,
    questions: Mapping[str, str],
    judgements: Mapping[str, Mapping[str, int]],
    progress: Callable[[int, int], None] | None = None,
    document_of: Callable[[Piece], str] = attrgetter("source"),
) -> Scorecard:
    """Ask an index all judged questions.

    Args:
        index: whose pieces have the judged documents' ids.
        questions: by id.
        judgements: by question and document.
        progress: told how many questions are asked, of how many.
        document_of: the id by which a piece is judged.

    Raises:
        UsageError: no question is judged, or no judged document is in the index.
    """
    sources = [document_of(piece) for piece in index.pieces]
    asked = _answerable(questions, judgements)
    answers = {document for name in asked for document in _answers(judgements[name])}
    missing = answers - set(sources)
    if missing == answers:
        raise UsageError(
            f"None of the judged documents is in {index.name}.",
            hint="Build it of the collection's corpus.jsonl, whose ids the judgements have.",
        )
    values: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    for done, name in enumerate(asked, start=1):
        found = index.candidates(questions[name], _DEPTH)
        for kind in KINDS:
            scores = getattr(found, kind)
            ranked = _documents(sources, found.ids, scores)
            values[kind].append(
                [measure(ranked, judgements[name]) for measure in MEASURES.values()]
            )
        if progress:
            progress(done, len(asked))
    return _scorecard(values, len(asked), len(set(sources)), len(missing))


def ndcg(ranked: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """Normalised discounted cumulative gain of the first k, 0 to 1; gains are the grades."""
    best = sorted(judged.values(), reverse=True)[:k]
    return _dcg([judged.get(document, 0) for document in ranked[:k]]) / _dcg(best)


def recall(ranked: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """Which part of the documents that answer is among the first k."""
    answers = _answers(judged)
    return len(answers & set(ranked[:k])) / len(answers)


def reciprocal_rank(ranked: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """1 divided by the rank of the first document that answers; 0 if none of the first k does."""
    answers = _answers(judged)
    ranks = (rank for rank, document in enumerate(ranked[:k], start=1) if document in answers)
    return 1 / next(ranks, float("inf"))


MEASURES: Mapping[str, Callable[[Sequence[str], Mapping[str, int]], float]] = {
    "ndcg@10": lambda ranked, judged: ndcg(ranked, judged, 10),
    "recall@5": lambda ranked, judged: recall(ranked, judged, 5),
    "recall@10": lambda ranked, judged: recall(ranked, judged, 10),
    "recall@100": lambda ranked, judged: recall(ranked, judged, 100),
    "mrr@10": lambda ranked, judged: reciprocal_rank(ranked, judged, 10),
}
"""Of one question's ranked documents, at least one of which answers; all 0 to 1."""


def _dcg(gains: Sequence[int]) -> float:
    return sum(max(gain, 0) / log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def _answers(judged: Mapping[str, int]) -> set[str]:
    return {document for document, grade in judged.items() if grade > 0}


def _answerable(
    questions: Mapping[str, str], judgements: Mapping[str, Mapping[str, int]]
) -> list[str]:
    asked = [name for name in questions if _answers(judgements.get(name, {}))]
    if not asked:
        raise UsageError(
            "No question has a judgement that says which document answers it.",
            hint="The ids in both files have to be the same.",
        )
    return asked


def _documents(
    sources: Sequence[str], ids: NDArray[np.int64], scores: NDArray[np.float32]
) -> list[str]:
    """The documents of the pieces that scored above 0, by their best piece, best first."""
    found: dict[str, None] = {}
    for place in (-scores).argsort(kind="stable"):
        if len(found) == _DOCUMENTS or scores[place] <= 0:
            break
        found[sources[ids[place]]] = None
    return list(found)


def _scorecard(
    values: Mapping[str, list[list[float]]], questions: int, documents: int, missing: int
) -> Scorecard:
    import numpy as np

    tables = {kind: np.array(rows) for kind, rows in values.items()}
    draws = np.random.default_rng(0).integers(questions, size=(DRAWS, questions))

    def figure(column: NDArray[np.float64]) -> Figure:
        low, high = np.percentile(column[draws].mean(axis=1), [2.5, 97.5])
        return Figure(float(column.mean()), float(low), float(high))

    return Scorecard(
        questions,
        documents,
        missing,
        figures={
            kind: {name: figure(table[:, at]) for at, name in enumerate(MEASURES)}
            for kind, table in tables.items()
        },
        gains={
            kind: figure(tables["fused"][:, 0] - tables[kind][:, 0])
            for kind in KINDS
            if kind != "fused"
        },
    )
