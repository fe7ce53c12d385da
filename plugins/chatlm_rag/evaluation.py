"""NDCG, recall, MRR with intervals; BEIR files; pictures.

A document counts by its best piece. The measures are those of trec_eval, and their means are over
all questions that have a document which answers them; intervals come from drawing the questions
anew, with replacement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from chatlm import UsageError
from chatlm_rag.index.chunks import Chunk
from chatlm_rag.retrieval.search import Index

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from chatlm_rag.retrieval.relevance import ThresholdPoint


RANKINGS = ("dense", "lexical", "fused")


BOOTSTRAP_SAMPLES = 1000
"""How often the questions are drawn anew."""


_CANDIDATE_DEPTH = 1000
"""Candidates by each kind: enough for 100 documents of several pieces each."""


_MAX_DOCUMENTS = 100
"""No measure looks further down."""


@dataclass(frozen=True)
class Estimate:
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
    missing_documents: int
    """Documents that would answer a question and are not in the index; they count as not found."""
    metrics: Mapping[str, Mapping[str, Estimate]]
    """By kind and measure, 0 to 1."""
    fused_gains: Mapping[str, Estimate]
    """By how much the fused nDCG@10 is above that of each other kind, question by question."""


def evaluate(
    index: Index,
    questions: Mapping[str, str],
    judgements: Mapping[str, Mapping[str, int]],
    progress: Callable[[int, int], None] | None = None,
    document_of: Callable[[Chunk], str] = attrgetter("source"),
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
    sources = [document_of(piece) for piece in index.chunks]
    asked = _answerable_questions(questions, judgements)
    answers = {document for name in asked for document in _relevant_documents(judgements[name])}
    missing = answers - set(sources)
    if missing == answers:
        raise UsageError(
            f"None of the judged documents is in {index.name}.",
            hint="Build it of the collection's corpus.jsonl, whose ids the judgements have.",
        )
    values: dict[str, list[list[float]]] = {kind: [] for kind in RANKINGS}
    for done, name in enumerate(asked, start=1):
        found = index.candidates(questions[name], _CANDIDATE_DEPTH)
        for kind in RANKINGS:
            scores = getattr(found, kind)
            ranked = _rank_documents(sources, found.ids, scores)
            values[kind].append([measure(ranked, judgements[name]) for measure in METRICS.values()])
        if progress:
            progress(done, len(asked))
    return _scorecard(values, len(asked), len(set(sources)), len(missing))


def ndcg(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """Normalised discounted cumulative gain of the first k, 0 to 1; gains are the grades."""
    best = sorted(grades.values(), reverse=True)[:k]
    return _dcg([grades.get(document, 0) for document in ranked[:k]]) / _dcg(best)


def recall(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """Which part of the documents that answer is among the first k."""
    answers = _relevant_documents(grades)
    return len(answers & set(ranked[:k])) / len(answers)


def reciprocal_rank(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """1 divided by the rank of the first document that answers; 0 if none of the first k does."""
    answers = _relevant_documents(grades)
    ranks = (rank for rank, document in enumerate(ranked[:k], start=1) if document in answers)
    return 1 / next(ranks, float("inf"))


METRICS: Mapping[str, Callable[[Sequence[str], Mapping[str, int]], float]] = {
    "ndcg@10": lambda ranked, judged: ndcg(ranked, judged, 10),
    "recall@5": lambda ranked, judged: recall(ranked, judged, 5),
    "recall@10": lambda ranked, judged: recall(ranked, judged, 10),
    "recall@100": lambda ranked, judged: recall(ranked, judged, 100),
    "mrr@10": lambda ranked, judged: reciprocal_rank(ranked, judged, 10),
}
"""Of one question's ranked documents, at least one of which answers; all 0 to 1."""


def _dcg(gains: Sequence[int]) -> float:
    return sum(max(gain, 0) / log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def _relevant_documents(grades: Mapping[str, int]) -> set[str]:
    return {document for document, grade in grades.items() if grade > 0}


def _answerable_questions(
    questions: Mapping[str, str], judgements: Mapping[str, Mapping[str, int]]
) -> list[str]:
    asked = [name for name in questions if _relevant_documents(judgements.get(name, {}))]
    if not asked:
        raise UsageError(
            "No question has a judgement that says which document answers it.",
            hint="The ids in both files have to be the same.",
        )
    return asked


def _rank_documents(
    sources: Sequence[str], ids: NDArray[np.int64], scores: NDArray[np.float32]
) -> list[str]:
    """The documents of the pieces that scored above 0, by their best piece, best first."""
    found: dict[str, None] = {}
    for place in (-scores).argsort(kind="stable"):
        if len(found) == _MAX_DOCUMENTS or scores[place] <= 0:
            break
        found[sources[ids[place]]] = None
    return list(found)


def _scorecard(
    values: Mapping[str, list[list[float]]], questions: int, documents: int, missing: int
) -> Scorecard:
    import numpy as np

    tables = {kind: np.array(rows) for kind, rows in values.items()}
    draws = np.random.default_rng(0).integers(questions, size=(BOOTSTRAP_SAMPLES, questions))

    def figure(column: NDArray[np.float64]) -> Estimate:
        low, high = np.percentile(column[draws].mean(axis=1), [2.5, 97.5])
        return Estimate(float(column.mean()), float(low), float(high))

    return Scorecard(
        questions,
        documents,
        missing,
        metrics={
            kind: {name: figure(table[:, at]) for at, name in enumerate(METRICS)}
            for kind, table in tables.items()
        },
        fused_gains={
            kind: figure(tables["fused"][:, 0] - tables[kind][:, 0])
            for kind in RANKINGS
            if kind != "fused"
        },
    )


Judgements = dict[str, dict[str, int]]
"""By question and document: 0 for one that does not answer, more the better it does."""


_QUERIES_HINT = 'Each line is one question: {"_id": "1", "text": "What …?"}'


_QRELS_HINT = "Each line is a question's id, a document's id and a whole number, with tabs between."


def read_questions(path: Path) -> dict[str, str]:
    """The questions of a `queries.jsonl`, by their ids.

    Raises:
        UsageError: it cannot be read; the message has the line.
    """
    questions: dict[str, str] = {}
    for number, line in _lines(path):
        try:
            table = json.loads(line)
            name, text = table["_id"], table["text"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(
                f"{path}, line {number} is no question.", hint=_QUERIES_HINT
            ) from error
        if not isinstance(name, str) or not isinstance(text, str):
            raise UsageError(f"{path}, line {number}: texts belong in quotes.", hint=_QUERIES_HINT)
        questions[name] = text
    return questions


def read_judgements(path: Path) -> Judgements:
    """The judgements of a `qrels.tsv`; a first line that names the columns is passed by.

    Raises:
        UsageError: it cannot be read; the message has the line.
    """
    judgements: Judgements = {}
    for number, line in _lines(path):
        fields = line.split("\t")
        try:
            question, document, grade = fields
            judgements.setdefault(question, {})[document] = int(grade)
            float(int(grade))  # a gain is reckoned with as one
        except (ValueError, OverflowError) as error:
            if number == 1 and len(fields) == 3:
                continue
            raise UsageError(f"{path}, line {number} is no judgement.", hint=_QRELS_HINT) from error
    return judgements


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers."""
    try:
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
"""Told apart by people who see few colours."""


def check_plot_path(path: Path) -> None:
    """See that a picture can be put there, before the work that it shows.

    Raises:
        UsageError: it cannot.
    """
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise UsageError(
            f"{path} is no picture's name.", hint=f"It ends in {', '.join(PLOT_SUFFIXES)}."
        )
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}.", hint="Make it first.")


def plot_scorecard(card: Scorecard, title: str, path: Path) -> None:
    """Draw every measure of each kind, with its interval.

    Args:
        card: to draw.
        title: above it.
        path: the suffix, one of `SUFFIXES`, says what kind of picture.

    Raises:
        UsageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8, 4.5), layout="constrained")
    axes = picture.subplots()
    for offset, (kind, figures) in zip((-0.22, 0.0, 0.22), card.metrics.items(), strict=True):
        means = [figure.mean for figure in figures.values()]
        axes.errorbar(
            means,
            [row + offset for row in range(len(means))],
            xerr=[
                [figure.mean - figure.low for figure in figures.values()],
                [figure.high - figure.mean for figure in figures.values()],
            ],
            fmt="o",
            capsize=3,
            color=_COLOURS[kind],
            label=kind,
            clip_on=False,
        )
        for row, mean in enumerate(means):
            axes.annotate(
                f"{mean:.3f}", (1.01, row + offset), xycoords=("axes fraction", "data"),
                va="center", fontsize=8, color=_COLOURS[kind],
            )  # fmt: skip
    axes.set_yticks(range(len(card.metrics["fused"])), list(card.metrics["fused"]))
    axes.invert_yaxis()
    axes.set_xlim(right=1.0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(title, parse_math=False)
    axes.set_xlabel("mean over the questions, with 95 % intervals")
    picture.legend(loc="outside lower center", ncols=3, frameon=False)
    _save_figure(picture, path)


def plot_threshold_curves(
    curves: Mapping[str, Sequence[ThresholdPoint]], threshold: float, path: Path
) -> None:
    """Draw what thresholds on the confidence would do.

    Args:
        curves: by what the unanswerable questions are; the answerable ones are the same in all.
        threshold: the one that is in use.
        path: see `save_scorecard`.

    Raises:
        UsageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8, 4.5), layout="constrained")
    axes = picture.subplots()
    for name, points in curves.items():
        axes.step(
            [point.threshold for point in points],
            [point.refused_rate for point in points],
            label=f"unanswerable, {name}: refused",
        )
    points = next(iter(curves.values()))
    axes.step(
        [point.threshold for point in points],
        [point.kept_rate for point in points],
        label="answerable: kept",
        color=_COLOURS["fused"],
    )
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label="threshold in use")
    axes.set_xlabel("threshold on the confidence")
    axes.set_ylabel("part of the questions")
    axes.grid(alpha=0.3)
    picture.legend(loc="outside lower center", ncols=2, frameon=False)
    _save_figure(picture, path)


def _save_figure(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
