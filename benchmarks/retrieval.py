"""How well and how fast chatlm finds passages, beside plain BM25 and plain dense search.

Run it with `python -m benchmarks.retrieval`; `--data` names the folder with the collections in the
BEIR layout. All sides answer the same questions in one process, one at a time. Indexing speed is
compared with sentence-transformers fed one text at a time, and fed all at once. Then many vectors
are searched, see `benchmarks.retrieval_vectors`. Nothing here is a pass or a fail.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from sentence_transformers import SentenceTransformer

from benchmarks.retrieval_vectors import study
from chatlm import ensure_model
from chatlm_rag import evaluation
from chatlm_rag.documents.files import Source
from chatlm_rag.evaluation import Judgements, read_judgements, read_questions
from chatlm_rag.index import builder
from chatlm_rag.index.checkpoint import EMBEDDINGS_FILE
from chatlm_rag.index.embedding import Embedder
from chatlm_rag.index.folder import find_index
from chatlm_rag.retrieval.search import Index

COLLECTIONS = ("cranfield", "xquad_en")
EMBEDDER = "all-minilm-l6-v2"

Ranker = Callable[[str], Sequence[str]]
"""A question to the ids of at most 100 documents, best first."""
Rows = dict[str, dict[str, float]]
"""What was measured of each side."""


class _Silent:
    """Shows nothing of a work."""

    cancelled = False

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        pass


silent = _Silent()


def plain_bm25(names: Sequence[str], texts: Sequence[str]) -> Ranker:
    """Whole documents by their words, as bm25s does it without being told more."""
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(texts), show_progress=False), show_progress=False)
    most = min(100, len(names))

    def rank(question: str) -> Sequence[str]:
        words = bm25s.tokenize(question, show_progress=False)
        found, _ = index.retrieve(words, k=most, show_progress=False)
        return [names[at] for at in found[0]]

    return rank


def plain_dense(model: SentenceTransformer, names: Sequence[str], texts: Sequence[str]) -> Ranker:
    """Whole documents, cut where the model stops reading, by the cosine of their vectors."""
    matrix = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)

    def rank(question: str) -> Sequence[str]:
        vector = model.encode(question, normalize_embeddings=True, show_progress_bar=False)
        return [names[at] for at in np.argsort(-(matrix @ vector))[:100]]

    return rank


def chatlm_search(index: Index) -> Ranker:
    """What `chatlm rag search` does, without leaving out what says the same."""

    def rank(question: str) -> Sequence[str]:
        ids = index.candidates(question).ids
        return list(dict.fromkeys(index.chunks[int(number)].source for number in ids))[:100]

    return rank


def answered(ranker: Ranker, questions: Mapping[str, str], judged: Judgements) -> dict[str, float]:
    """The means of a side's measures, and how long a question takes."""
    asked = [name for name in questions if any(g > 0 for g in judged.get(name, {}).values())]
    values: dict[str, list[float]] = {name: [] for name in evaluation.METRICS}
    seconds = []
    ranker(questions[asked[0]])
    for name in asked:
        start = time.perf_counter()
        ranked = ranker(questions[name])
        seconds.append(time.perf_counter() - start)
        for measure, compute in evaluation.METRICS.items():
            values[measure].append(compute(ranked, judged[name]))
    return {measure: statistics.mean(column) for measure, column in values.items()} | {
        "median ms": 1000 * statistics.median(seconds),
        "p95 ms": 1000 * float(np.percentile(seconds, 95)),
    }


def compare(data: Path, name: str, model: SentenceTransformer) -> tuple[Rows, Index]:
    """All sides on one collection, and chatlm's index of it."""
    collection = data / name
    lines = (collection / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    documents = [json.loads(line) for line in lines]
    names = [document["_id"] for document in documents]
    texts = [f"{document['title']}\n{document['text']}" for document in documents]
    questions = read_questions(collection / "queries.jsonl")
    judged = read_judgements(collection / "qrels.tsv")
    builder.build(name, (Source(str(collection / "corpus.jsonl")),), silent)
    index = Index.open(find_index(name))
    sides = {
        "chatlm": chatlm_search(index),
        "plain BM25": plain_bm25(names, texts),
        "plain dense": plain_dense(model, names, texts),
    }
    rows = {side: answered(ranker, questions, judged) for side, ranker in sides.items()}
    card = evaluation.evaluate(index, questions, judged)
    for kind, figures in card.metrics.items():
        rows[f"scorecard, {kind}"] = {name: figure.mean for name, figure in figures.items()}
    return rows, index


def embedding_speed(
    model: SentenceTransformer, folder: Path, texts: Sequence[str], rounds: int
) -> Rows:
    """Passages a second, all sides in each round."""
    embedder = Embedder(folder)
    sides: dict[str, Callable[[], Any]] = {
        "chatlm": lambda: embedder.embed(texts),
        "one text at a time": lambda: [
            model.encode(text, normalize_embeddings=True, show_progress_bar=False) for text in texts
        ],
        "all texts at once": lambda: model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        ),
    }
    embedder.embed(texts[:1])
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[side].append(time.perf_counter() - start)
        print(f"embedding, round {number + 1} of {rounds}", file=sys.stderr)
    return {
        side: {"passages a second": len(texts) / statistics.median(times)}
        for side, times in seconds.items()
    }


def main() -> None:
    """Measure, print tables, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/retrieval"))
    parser.add_argument("--texts", type=int, default=400, help="passages that are embedded")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of embedding")
    parser.add_argument(
        "--vectors", type=int, nargs="*", default=[10_000, 100_000, 1_000_000], metavar="COUNT"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model_folder = ensure_model(EMBEDDER).folder
    model = SentenceTransformer(str(model_folder), local_files_only=True)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        lend(Path(home), model_folder)
        indices = []
        for name in COLLECTIONS:
            found[name], index = compare(options.data, name, model)
            indices.append(index)
            print(f"{name} is done", file=sys.stderr)
        texts = [piece.indexed_text for piece in indices[0].chunks[: options.texts]]
        found["embedding"] = embedding_speed(model, model_folder, texts, options.rounds)
        base = np.concatenate([_vectors(name) for name in COLLECTIONS])
        asked = read_questions(options.data / COLLECTIONS[-1] / "queries.jsonl")
        questions = np.stack(
            [indices[0].embedder.embed_query(q) for q in list(asked.values())[:300]]
        )
        found["vectors"] = {}
        for count in options.vectors:
            with tempfile.TemporaryDirectory() as folder:
                found["vectors"][f"{count:,}"] = study(base, questions, count, Path(folder))
            print(f"{count:,} vectors are done", file=sys.stderr)
    print(json.dumps(found, indent=2)) if options.json else report(found)


def report(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """A table for each part, a row for each side."""
    for part, rows in found.items():
        print(f"\n{part}")
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        if part == "vectors":
            for name in columns:
                values = "".join(f"{row[name]:>14,}" for row in rows.values())
                print(f"  {name:<32}{values}")
            continue
        print(f"  {'':<20}" + "".join(f"{name:>19}" for name in columns))
        for side, row in rows.items():
            cells = (f"{row[name]:>19.3f}" if name in row else f"{'':>19}" for name in columns)
            print(f"  {side:<20}" + "".join(cells))


def _vectors(collection: str) -> Any:
    folder = find_index(collection).current()
    assert folder is not None
    return np.load(folder / EMBEDDINGS_FILE)


def lend(home: Path, *models: Path) -> None:
    """Let an empty home have models, for indices that nobody keeps."""
    os.environ["CHATLM_HOME"] = str(home)
    (home / "models").mkdir()
    for model in models:
        (home / "models" / model.name).symlink_to(model, target_is_directory=True)


if __name__ == "__main__":
    main()
