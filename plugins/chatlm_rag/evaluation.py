"""Evaluate an index on BEIR questions: nDCG, recall and MRR with bootstrap intervals, and plots.

A document is ranked by its best chunk. The metrics are those of trec_eval, averaged over all
questions that have a relevant document; the intervals come from resampling the questions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from chatlm import UsageError, check_regular_file
from chatlm_rag.index.chunks import Chunk
from chatlm_rag.retrieval.search import Index

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


RANKINGS = ("dense", "lexical", "fused")


BOOTSTRAP_SAMPLES = 1000
"""Bootstrap resamples of the questions."""


_MAX_DOCUMENTS = 100
"""Depth of the ranked list of documents, the largest cutoff of the metrics."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Scorecard:
    """The result of an evaluation."""

    questions: int
    """Number of judged questions."""
    documents: int
    """Number of documents in the index."""
    missing_documents: int
    """Relevant documents that are not in the index; they count as not found."""
    metrics: Mapping[str, Mapping[str, Estimate]]
    """By ranking and metric, 0 to 1."""
    fused_gains: Mapping[str, Estimate]
    """Paired difference of nDCG@10 between the fused ranking and each other ranking."""


def evaluate(
    index: Index,
    questions: Mapping[str, str],
    judgements: Mapping[str, Mapping[str, int]],
    progress: Callable[[int, int], None] | None = None,
    document_of: Callable[[Chunk], str] = attrgetter("source"),
) -> Scorecard:
    """Run all judged questions against an index.

    Args:
        index: its chunks must have the ids of the judged documents.
        questions: texts by question id.
        judgements: grades by question id and document id.
        progress: called with the number of questions done and their total.
        document_of: returns the document id of a chunk.

    Raises:
        UsageError: no question has a relevant document, or none of those is in the index.
    """
    sources = [document_of(chunk) for chunk in index.chunks]
    question_ids = _answerable_questions(questions, judgements)
    relevant = {
        document
        for question_id in question_ids
        for document in _relevant_documents(judgements[question_id])
    }
    missing = relevant - set(sources)
    if missing == relevant:
        raise UsageError(
            f"None of the judged documents is in {index.name}.",
            hint="Build the index from the collection's corpus.jsonl, which has the judged ids.",
        )
    values: dict[str, list[list[float]]] = {ranking: [] for ranking in RANKINGS}
    for done, question_id in enumerate(question_ids, start=1):
        candidates = index.candidates(questions[question_id])
        for ranking in RANKINGS:
            ranked = _rank_documents(sources, candidates.ids, getattr(candidates, ranking))
            grades = judgements[question_id]
            values[ranking].append([metric(ranked, grades) for metric in METRICS.values()])
        if progress:
            progress(done, len(question_ids))
    return _scorecard(values, len(question_ids), len(set(sources)), len(missing))


def ndcg(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """Return the normalized discounted cumulative gain at k, 0 to 1; the gains are the grades."""
    best = sorted(grades.values(), reverse=True)[:k]
    return _dcg([grades.get(document, 0) for document in ranked[:k]]) / _dcg(best)


def recall(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """Return the share of the relevant documents that are among the first k."""
    relevant = _relevant_documents(grades)
    return len(relevant & set(ranked[:k])) / len(relevant)


def reciprocal_rank(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """Return 1 / rank of the first relevant document; 0 if none is among the first k."""
    relevant = _relevant_documents(grades)
    ranks = (rank for rank, document in enumerate(ranked[:k], start=1) if document in relevant)
    return 1 / next(ranks, float("inf"))


METRICS: Mapping[str, Callable[[Sequence[str], Mapping[str, int]], float]] = {
    "ndcg@10": lambda ranked, grades: ndcg(ranked, grades, 10),
    "recall@5": lambda ranked, grades: recall(ranked, grades, 5),
    "recall@10": lambda ranked, grades: recall(ranked, grades, 10),
    "recall@100": lambda ranked, grades: recall(ranked, grades, 100),
    "mrr@10": lambda ranked, grades: reciprocal_rank(ranked, grades, 10),
}
"""Metrics of one question with at least one relevant document, 0 to 1."""


def _dcg(gains: Sequence[int]) -> float:
    return sum(max(gain, 0) / log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def _relevant_documents(grades: Mapping[str, int]) -> set[str]:
    return {document for document, grade in grades.items() if grade > 0}


def _answerable_questions(
    questions: Mapping[str, str], judgements: Mapping[str, Mapping[str, int]]
) -> list[str]:
    answerable = [name for name in questions if _relevant_documents(judgements.get(name, {}))]
    if not answerable:
        raise UsageError(
            "No question has a relevant document in the judgements.",
            hint="Both files must use the same question ids.",
        )
    return answerable


def _rank_documents(
    sources: Sequence[str], ids: NDArray[np.int64], scores: NDArray[np.float32]
) -> list[str]:
    """Rank documents by their best chunk with a score above 0."""
    ranked: dict[str, None] = {}
    for at in (-scores).argsort(kind="stable"):
        if len(ranked) == _MAX_DOCUMENTS or scores[at] <= 0:
            break
        ranked[sources[ids[at]]] = None
    return list(ranked)


def _scorecard(
    values: Mapping[str, list[list[float]]], questions: int, documents: int, missing: int
) -> Scorecard:
    import numpy as np

    matrices = {ranking: np.array(rows) for ranking, rows in values.items()}
    samples = np.random.default_rng(0).integers(questions, size=(BOOTSTRAP_SAMPLES, questions))

    def estimate(column: NDArray[np.float64]) -> Estimate:
        low, high = np.percentile(column[samples].mean(axis=1), [2.5, 97.5])
        return Estimate(float(column.mean()), float(low), float(high))

    return Scorecard(
        questions,
        documents,
        missing,
        metrics={
            ranking: {name: estimate(matrix[:, at]) for at, name in enumerate(METRICS)}
            for ranking, matrix in matrices.items()
        },
        fused_gains={
            ranking: estimate(matrices["fused"][:, 0] - matrices[ranking][:, 0])
            for ranking in RANKINGS
            if ranking != "fused"
        },
    )


Judgements = dict[str, dict[str, int]]
"""Relevance grades by question id and document id; 0 is not relevant."""


_QUERIES_HINT = 'Each line is one question: {"_id": "1", "text": "What …?"}'


_QRELS_HINT = "Each line is a question id, a document id and an integer grade, separated by tabs."


def read_questions(path: Path) -> dict[str, str]:
    """Read the questions of a BEIR `queries.jsonl` by their ids.

    Raises:
        UsageError: it cannot be read or is invalid; the message names the line.
    """
    questions: dict[str, str] = {}
    for number, line in _lines(path):
        try:
            fields = json.loads(line)
            name, text = fields["_id"], fields["text"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(
                f"{path}, line {number} is not a question.", hint=_QUERIES_HINT
            ) from error
        if not isinstance(name, str) or not isinstance(text, str):
            raise UsageError(
                f"{path}, line {number}: _id and text must be strings.", hint=_QUERIES_HINT
            )
        questions[name] = text
    return questions


def read_judgements(path: Path) -> Judgements:
    """Read the relevance judgements of a BEIR `qrels.tsv`; a header line is skipped.

    Raises:
        UsageError: it cannot be read or is invalid; the message names the line.
    """
    judgements: Judgements = {}
    for number, line in _lines(path):
        fields = line.split("\t")
        try:
            question, document, grade = fields
            judgements.setdefault(question, {})[document] = int(grade)
            float(int(grade))  # raises if the grade is too large to compute a gain
        except (ValueError, OverflowError) as error:
            if number == 1 and len(fields) == 3:
                continue
            raise UsageError(
                f"{path}, line {number} is not a judgement.", hint=_QRELS_HINT
            ) from error
    return judgements


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the non-empty lines of a file with their numbers."""
    try:
        check_regular_file(path)
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8.", hint="Save it as UTF-8.") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


PLOT_SUFFIXES = (".png", ".svg", ".pdf")


_COLOURS = {"dense": "#0072b2", "lexical": "#d55e00", "fused": "#009e73"}
"""Distinguishable for colour-blind users."""


def check_plot_path(path: Path) -> None:
    """Check that a plot can be saved at a path, before the evaluation runs.

    Raises:
        UsageError: the suffix is unsupported, or the folder does not exist.
    """
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise UsageError(
            f"{path} has no supported image suffix.", hint=f"Use one of {', '.join(PLOT_SUFFIXES)}."
        )
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}.", hint="Create it first.")


def plot_scorecard(card: Scorecard, title: str, path: Path) -> None:
    """Plot every metric of each ranking with its interval.

    Args:
        card: the scorecard.
        title: title of the plot.
        path: its suffix, one of `PLOT_SUFFIXES`, determines the image format.

    Raises:
        UsageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for offset, (ranking, metrics) in zip((-0.22, 0.0, 0.22), card.metrics.items(), strict=True):
        means = [estimate.mean for estimate in metrics.values()]
        axes.errorbar(
            means,
            [row + offset for row in range(len(means))],
            xerr=[
                [estimate.mean - estimate.low for estimate in metrics.values()],
                [estimate.high - estimate.mean for estimate in metrics.values()],
            ],
            fmt="o",
            capsize=3,
            color=_COLOURS[ranking],
            label=ranking,
            clip_on=False,
        )
        for row, mean in enumerate(means):
            axes.annotate(
                f"{mean:.3f}", (1.01, row + offset), xycoords=("axes fraction", "data"),
                va="center", fontsize=8, color=_COLOURS[ranking],
            )  # fmt: skip
    axes.set_yticks(range(len(card.metrics["fused"])), list(card.metrics["fused"]))
    axes.invert_yaxis()
    axes.set_xlim(right=1.0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(title, parse_math=False)
    axes.set_xlabel("mean over the questions, with 95 % intervals")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    _save_figure(figure, path)


def _save_figure(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
