"""Measure how well chatlm detects unanswerable questions, and calibrate its relevance threshold.

Run it with `python -m benchmarks.retrieval_abstaining`; `--data` names the folder with the
collections. One index contains all documents of single_topic. The questions are the answerable and
unanswerable ones of that collection, which are on the same topics, and off-topic ones (xquad_en).
There is no pass or fail.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.retrieval import EMBEDDER, link_models, silent
from chatlm import ensure_model
from chatlm_rag import evaluation
from chatlm_rag.documents.files import Source
from chatlm_rag.evaluation import read_questions
from chatlm_rag.index import builder
from chatlm_rag.index.folder import find_index
from chatlm_rag.retrieval import relevance
from chatlm_rag.retrieval.search import Index

ANSWERABLE = ("single_passage", "multi_passage")
OFF_TOPIC = 200

Grouped = dict[str, list[float]]
"""Confidences by the document that the question is about."""


def build(documents: Path, home: Path) -> Index:
    """Build an index of the documents in an empty home folder."""
    corpus = home / "corpus.jsonl"
    with corpus.open("w", encoding="utf-8") as file:
        for row in _rows(documents):
            table = {"_id": row["index"], "title": "", "text": row["text"]}
            file.write(json.dumps(table) + "\n")
    builder.build("single-topic", (Source(str(corpus)),), silent)
    return Index.open(find_index("single-topic"))


def confidences(index: Index, questions: Path) -> Grouped:
    """Return the confidence for each question in a file."""
    grouped: Grouped = {}
    for row in _rows(questions):
        grouped.setdefault(row["document_index"], []).append(_confidence(index, row["question"]))
    return grouped


def area(answerable: Sequence[float], unanswerable: Sequence[float]) -> float:
    """Return the area under the ROC curve, 0 to 1."""
    pairs = [(a > b) + (a == b) / 2 for a in answerable for b in unanswerable]
    return sum(pairs) / len(pairs)


def main() -> None:
    """Run the benchmark and print the curve, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/retrieval"))
    parser.add_argument("--plot", type=Path, help="save the curves: FILE.png, .svg or .pdf")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    topic = options.data / "single_topic"
    model = ensure_model(EMBEDDER).folder
    with tempfile.TemporaryDirectory() as home:
        link_models(Path(home), model)
        index = build(topic / "documents.csv", Path(home))
        answerable: Grouped = {}
        for kind in ANSWERABLE:
            for name, values in confidences(index, _questions(topic, kind)).items():
                answerable.setdefault(name, []).extend(values)
        unanswerable = confidences(index, _questions(topic, "no_answer"))
        others = list(read_questions(options.data / "xquad_en" / "queries.jsonl").values())
        step = max(len(others) // OFF_TOPIC, 1)
        off_topic = [_confidence(index, question) for question in others[::step]]
    report(answerable, unanswerable, off_topic, options.plot, as_json=options.json)


def report(
    answerable: Grouped,
    unanswerable: Grouped,
    off_topic: Sequence[float],
    plot: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print the areas under the curves, the calibrated threshold, and the curves."""
    yes, no = _all(answerable), _all(unanswerable)
    curves = {
        "on the topic": relevance.threshold_curve(yes, no),
        "about other things": relevance.threshold_curve(yes, off_topic),
    }
    calibrated = relevance.calibrate(yes)
    checked = relevance.cross_validate(answerable, unanswerable)
    if plot:
        evaluation.plot_threshold_curves(curves, relevance.THRESHOLD, plot)
    found = {
        "answerable questions": len(yes),
        "unanswerable questions on the topic": len(no),
        "questions about other things": len(off_topic),
        "area, on the topic": area(yes, no),
        "area, about other things": area(yes, off_topic),
        "calibrated threshold": calibrated,
        "threshold in use": relevance.THRESHOLD,
        "kept, on documents held out": checked.kept_rate,
        "refused on the topic, on documents held out": checked.refused_rate,
        "kept by the threshold in use": _part(yes, above=True),
        "refused on the topic by it": _part(no, above=False),
        "refused about other things by it": _part(off_topic, above=False),
    }
    if as_json:
        points = {
            name: [(point.threshold, point.kept_rate, point.refused_rate) for point in curve]
            for name, curve in curves.items()
        }
        json.dump(found | {"curves": points}, sys.stdout, indent=2)
        return
    for name, value in found.items():
        print(f"{name:<46}{value:>8.3f}" if isinstance(value, float) else f"{name:<46}{value:>8}")
    print(f"\n{'threshold':>9}{'kept':>8}{'refused: on the topic':>24}{'about other things':>22}")
    for threshold in (number / 20 for number in range(6, 16)):
        row = [sum(v >= threshold for v in yes) / len(yes)]
        row += [sum(v < threshold for v in values) / len(values) for values in (no, off_topic)]
        print(f"{threshold:>9.2f}{row[0]:>8.2f}{row[1]:>24.2f}{row[2]:>22.2f}")


def _part(values: Sequence[float], *, above: bool) -> float:
    return sum((value >= relevance.THRESHOLD) == above for value in values) / len(values)


def _all(grouped: Grouped) -> list[float]:
    return [value for values in grouped.values() for value in values]


def _confidence(index: Index, question: str) -> float:
    return index.confidence(question, index.search(question))


def _questions(folder: Path, kind: str) -> Path:
    return folder / f"{kind}_train_validate_questions.csv"


def _rows(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(10_000_000)  # a field contains a whole document
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
