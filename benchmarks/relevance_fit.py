"""Fit the confidence that documents answer a question, and measure the choice of quotes.

Run it with `python -m benchmarks.relevance_fit`. It asks about the collections for tuning: articles
of SQuAD 2.0 that the reader was not trained with, sections of SelQA, product reviews of SQuADShifts
and the documents of single_topic. It prints the coefficients for
`chatlm_rag.retrieval.relevance`, the area under the ROC curve with each kind of evidence left out,
and how many quotes hold the answer with several settings of `chatlm_rag.retrieval.extractive`.
`benchmarks.grounding` measures the result on other collections.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from benchmarks.grounding import build
from benchmarks.grounding_collections import Asked, Collection, holds, load_collection, normalize
from benchmarks.question_sets import Question, QuestionedPassage, read_squad
from benchmarks.reader_examples import development_articles, selqa_examples
from benchmarks.retrieval import EMBEDDER, link_models
from chatlm import ensure_model
from chatlm_rag.reading.answer_scores import covered_share
from chatlm_rag.reading.answer_types import type_evidence
from chatlm_rag.retrieval import relevance
from chatlm_rag.retrieval.search import get_open_index

PASSAGES = 3
KEPT = 0.92


@dataclass(frozen=True)
class Choice:
    """A statement that could be quoted."""

    score: float
    """The reader's."""
    typed: int
    covered: float
    """The share of the question's words in it."""
    passage: float
    """The fused score of its passage."""
    right: bool
    """Whether it holds an answer."""


@dataclass(frozen=True)
class Case:
    """A question, the evidence, and the statements that could be quoted."""

    collection: str
    answerable: bool
    evidence: relevance.Evidence
    choices: tuple[Choice, ...]


def collections(data: Path, folder: Path, count: int) -> Iterator[Collection]:
    """Yield the collections for tuning."""
    squad = folder / "squad2_half.json"
    kept = development_articles(squad)
    articles = [each for each in read_squad(squad) if each.document in kept]
    yield load_collection("tune-squad", "articles", articles, 3, count)
    yield load_collection(
        "tune-selqa", "sections", selqa_passages(folder / "selqa_dev.json"), 120, count
    )
    reviews = list(read_squad(folder / "amazon.json"))
    yield load_collection("tune-amazon", "reviews", reviews, 120, count)
    yield single_topic(data / "single_topic")


def selqa_passages(path: Path) -> list[QuestionedPassage]:
    """Return the sections of SelQA; the answer of a question is a whole sentence."""
    sections: dict[tuple[str, ...], tuple[str, list[Question]]] = {}
    for each in selqa_examples(path):
        answers = tuple(each.statements[at] for at in each.positives)
        _, questions = sections.setdefault(each.statements, (each.title.split()[0], []))
        questions.append(Question(each.question, answers))
    passages = [
        QuestionedPassage(document, " ".join(parts), tuple(questions))
        for parts, (document, questions) in sections.items()
    ]
    return sorted(passages, key=lambda each: each.document)


def single_topic(folder: Path) -> Collection:
    """Return the documents of single_topic with their questions, whose answers are not spans."""

    def rows(name: str) -> list[dict[str, str]]:
        csv.field_size_limit(10_000_000)  # a field contains a whole document
        with (folder / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def asked(kind: str) -> list[Asked]:
        found = rows(f"{kind}_train_validate_questions.csv")
        return [Asked(row["question"], (), row["document_index"]) for row in found]

    return Collection(
        "tune-topics",
        "documents",
        {row["index"]: row["text"] for row in rows("documents.csv")},
        tuple(asked("single_passage") + asked("multi_passage")),
        tuple(asked("no_answer")),
    )


def cases(collection: Collection, name: str) -> Iterator[Case]:
    """Yield the case of each question of a collection."""
    index = get_open_index(name).index
    for answerable in (True, False):
        for asked in collection.answerable if answerable else collection.unanswerable:
            hits = index.search(asked.text)
            evidence = index.evidence(asked.text, hits)
            if evidence is None:
                continue
            choices = [
                Choice(
                    score,
                    type_evidence(asked.text, statement),
                    covered_share(asked.text, statement),
                    hit.score,
                    hit.chunk.source == asked.document
                    and any(holds(normalize(statement), answer) for answer in asked.answers),
                )
                for hit, reading in zip(hits[:PASSAGES], index.read(asked.text, hits), strict=False)
                for statement, score in zip(reading.statements, reading.scores, strict=True)
            ]
            yield Case(collection.name, answerable, evidence, tuple(choices))


def quoted(
    case: Case, weights: tuple[float, float, float], gap: float, most: int
) -> tuple[bool, int]:
    """Return whether the quotes hold an answer, and how many there are.

    Args:
        case: the question.
        weights: of the kind of answer, the question's words and the passage.
        gap: how much lower than the best score another may be.
        most: limit of the quotes.
    """
    typed, covered, passage = weights
    ranked = sorted(
        (
            (
                each.score + typed * each.typed + covered * each.covered + passage * each.passage,
                each.right,
            )
            for each in case.choices
        ),
        key=lambda pair: -pair[0],
    )
    chosen = [right for score, right in ranked[:most] if score >= ranked[0][0] - gap]
    return any(chosen), len(chosen)


def fit(found: Sequence[Case]) -> None:
    """Print the coefficients, and the areas with and without each kind of evidence."""
    matrix = np.array([astuple(case.evidence) for case in found])
    right = np.array([case.answerable for case in found])
    names = np.array([case.collection for case in found])
    every = relevance.evidence_names()

    def areas(columns: Sequence[int]) -> dict[str, float]:
        """The areas, each with a model that was fitted to the other collections."""
        result = {}
        for name in dict.fromkeys(names):
            inside = names == name
            model = LogisticRegression(class_weight="balanced", max_iter=1000)
            model.fit(matrix[~inside][:, columns], right[~inside])
            scores = model.decision_function(matrix[inside][:, columns])
            result[name] = roc_auc_score(right[inside], scores)
        return result

    print(f"{'evidence':<22}" + "".join(f"{name:>14}" for name in dict.fromkeys(names)))
    sets = [list(range(len(every)))]
    sets += [[at for at in sets[0] if at != left] for left in sets[0]] + [[at] for at in sets[0]]
    for columns in sets:
        label = (
            "all"
            if len(columns) == len(every)
            else f"only {every[columns[0]]}"
            if len(columns) == 1
            else f"without {next(n for at, n in enumerate(every) if at not in columns)}"
        )
        print(f"{label:<22}" + "".join(f"{value:>14.3f}" for value in areas(columns).values()))
    model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(matrix, right)
    print("\nintercept", round(float(model.intercept_[0]), 3))
    print("coefficients", dict(zip(every, model.coef_[0].round(3).tolist(), strict=True)))
    sure = model.predict_proba(matrix)[:, 1]
    for name in dict.fromkeys(names):
        yes, no = sure[(names == name) & right], sure[(names == name) & ~right]
        level = float(np.quantile(yes, 1 - KEPT))
        print(
            f"{name:<14} threshold {level:.3f} keeps {KEPT:.0%}, refuses {np.mean(no < level):.3f}"
        )
    for level in np.arange(0.1, 0.6, 0.05):
        print(
            f"threshold {level:.2f} keeps {np.mean(sure[right] >= level):.3f}, "
            f"refuses {np.mean(sure[~right] < level):.3f}"
        )


def choose(found: Sequence[Case]) -> None:
    """Print how many quotes hold the answer of the questions whose passages do."""
    answered = [case for case in found if any(choice.right for choice in case.choices)]
    names = list(dict.fromkeys(case.collection for case in answered))
    head = "type, words, passage, gap, most"
    print(f"\n{head:<34}" + "".join(f"{name:>14}" for name in names) + "   quotes")
    for typed, covered, passage, gap, most in itertools.product(
        (0.0, 0.5), (0.0, 2.0, 4.0, 6.0), (0.0, 6.0), (2.0, 3.0), (2, 3)
    ):
        row, length = [], 0
        for name in names:
            results = [
                quoted(case, (typed, covered, passage), gap, most)
                for case in answered
                if case.collection == name
            ]
            row.append(float(np.mean([right for right, _ in results])))
            length += sum(count for _, count in results)
        label = f"{typed}, {covered}, {passage}, {gap}, {most}"
        cells = "".join(f"{value:>14.3f}" for value in row)
        print(f"{label:<34}{cells}{length / len(answered):>9.2f}")


def main() -> None:
    """Gather the evidence, or read what an earlier run gathered, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/retrieval"))
    parser.add_argument("--collections", type=Path, default=Path("../shared/data/grounding"))
    parser.add_argument("--cache", type=Path, default=Path(".cache/grounding"))
    parser.add_argument("--questions", type=int, default=250, help="of each kind and collection")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    link_models(options.cache.absolute(), ensure_model(EMBEDDER).folder)
    found: list[Case] = []
    for collection in collections(options.data, options.collections, options.questions):
        found += cases(collection, build(collection, options.cache))
        print(f"{collection.name} is done", file=sys.stderr)
    fit(found)
    choose(found)


if __name__ == "__main__":
    main()
