"""Compare the quality and speed of chatlm's search with plain BM25 and plain dense search.

Run it with `python -m benchmarks.retrieval`; `--data` names the folder with the collections in BEIR
format. All systems answer the same questions in one process, one at a time. Embedding speed is
compared with sentence-transformers on single texts and on all texts at once. Then large sets of
vectors are searched; see `benchmarks.retrieval_vectors`. There is no pass or fail.
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
"""Returns the ids of at most 100 documents for a question, best first."""
Rows = dict[str, dict[str, float]]
"""Measurements by system and metric."""


class _Silent:
    """A progress reporter that shows nothing."""

    cancelled = False

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        pass


silent = _Silent()


def plain_bm25(names: Sequence[str], texts: Sequence[str]) -> Ranker:
    """Rank whole documents by BM25 with the defaults of bm25s."""
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(texts), show_progress=False), show_progress=False)
    limit = min(100, len(names))

    def rank(question: str) -> Sequence[str]:
        words = bm25s.tokenize(question, show_progress=False)
        rows, _ = index.retrieve(words, k=limit, show_progress=False)
        return [names[row] for row in rows[0]]

    return rank


def plain_dense(model: SentenceTransformer, names: Sequence[str], texts: Sequence[str]) -> Ranker:
    """Rank whole documents, truncated to the model's limit, by the cosine of their vectors."""
    matrix = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)

    def rank(question: str) -> Sequence[str]:
        vector = model.encode(question, normalize_embeddings=True, show_progress_bar=False)
        return [names[row] for row in np.argsort(-(matrix @ vector))[:100]]

    return rank


def chatlm_search(index: Index) -> Ranker:
    """Rank documents as `chatlm rag search` does, without removing near-duplicates."""

    def rank(question: str) -> Sequence[str]:
        ids = index.candidates(question).ids
        return list(dict.fromkeys(index.chunks[int(chunk_id)].source for chunk_id in ids))[:100]

    return rank


def measure(ranker: Ranker, questions: Mapping[str, str], judged: Judgements) -> dict[str, float]:
    """Return the mean of each metric, and the time per question."""
    answerable = [name for name in questions if any(g > 0 for g in judged.get(name, {}).values())]
    values: dict[str, list[float]] = {name: [] for name in evaluation.METRICS}
    seconds = []
    ranker(questions[answerable[0]])
    for name in answerable:
        start = time.perf_counter()
        ranked = ranker(questions[name])
        seconds.append(time.perf_counter() - start)
        for metric, compute in evaluation.METRICS.items():
            values[metric].append(compute(ranked, judged[name]))
    return {metric: statistics.mean(column) for metric, column in values.items()} | {
        "median ms": 1000 * statistics.median(seconds),
        "p95 ms": 1000 * float(np.percentile(seconds, 95)),
    }


def compare(data: Path, name: str, model: SentenceTransformer) -> tuple[Rows, Index]:
    """Measure all systems on one collection; return the results and chatlm's index."""
    collection = data / name
    lines = (collection / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    documents = [json.loads(line) for line in lines]
    names = [document["_id"] for document in documents]
    texts = [f"{document['title']}\n{document['text']}" for document in documents]
    questions = read_questions(collection / "queries.jsonl")
    judged = read_judgements(collection / "qrels.tsv")
    builder.build(name, (Source(str(collection / "corpus.jsonl")),), silent)
    index = Index.open(find_index(name))
    rankers = {
        "chatlm": chatlm_search(index),
        "plain BM25": plain_bm25(names, texts),
        "plain dense": plain_dense(model, names, texts),
    }
    rows = {system: measure(ranker, questions, judged) for system, ranker in rankers.items()}
    card = evaluation.evaluate(index, questions, judged)
    for ranking, metrics in card.metrics.items():
        rows[f"scorecard, {ranking}"] = {name: each.mean for name, each in metrics.items()}
    return rows, index


def embedding_speed(
    model: SentenceTransformer, folder: Path, texts: Sequence[str], rounds: int
) -> Rows:
    """Measure passages per second; each round runs all systems."""
    embedder = Embedder(folder)
    runs: dict[str, Callable[[], Any]] = {
        "chatlm": lambda: embedder.embed(texts),
        "one text at a time": lambda: [
            model.encode(text, normalize_embeddings=True, show_progress_bar=False) for text in texts
        ],
        "all texts at once": lambda: model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        ),
    }
    embedder.embed(texts[:1])
    seconds: dict[str, list[float]] = {system: [] for system in runs}
    for number in range(rounds):
        for system, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[system].append(time.perf_counter() - start)
        print(f"embedding, round {number + 1} of {rounds}", file=sys.stderr)
    return {
        system: {"passages a second": len(texts) / statistics.median(times)}
        for system, times in seconds.items()
    }


def main() -> None:
    """Run the benchmark and print tables, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/retrieval"))
    parser.add_argument("--texts", type=int, default=400, help="number of passages to embed")
    parser.add_argument("--rounds", type=int, default=3, help="embedding rounds")
    parser.add_argument(
        "--vectors", type=int, nargs="*", default=[10_000, 100_000, 1_000_000], metavar="COUNT"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model_folder = ensure_model(EMBEDDER).folder
    model = SentenceTransformer(str(model_folder), local_files_only=True)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        link_models(Path(home), model_folder)
        indices = []
        for name in COLLECTIONS:
            results[name], index = compare(options.data, name, model)
            indices.append(index)
            print(f"{name} is done", file=sys.stderr)
        texts = [chunk.indexed_text for chunk in indices[0].chunks[: options.texts]]
        results["embedding"] = embedding_speed(model, model_folder, texts, options.rounds)
        base = np.concatenate([_vectors(name) for name in COLLECTIONS])
        questions = read_questions(options.data / COLLECTIONS[-1] / "queries.jsonl")
        queries = np.stack(
            [indices[0].embedder.embed_query(q) for q in list(questions.values())[:300]]
        )
        results["vectors"] = {}
        for count in options.vectors:
            with tempfile.TemporaryDirectory() as folder:
                results["vectors"][f"{count:,}"] = study(base, queries, count, Path(folder))
            print(f"{count:,} vectors are done", file=sys.stderr)
    print(json.dumps(results, indent=2)) if options.json else report(results)


def report(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Print a table for each part, with a row for each system."""
    for part, rows in results.items():
        print(f"\n{part}")
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        if part == "vectors":
            for name in columns:
                values = "".join(f"{row[name]:>14,}" for row in rows.values())
                print(f"  {name:<32}{values}")
            continue
        print(f"  {'':<20}" + "".join(f"{name:>19}" for name in columns))
        for system, row in rows.items():
            cells = (f"{row[name]:>19.3f}" if name in row else f"{'':>19}" for name in columns)
            print(f"  {system:<20}" + "".join(cells))


def _vectors(collection: str) -> Any:
    folder = find_index(collection).current()
    assert folder is not None
    return np.load(folder / EMBEDDINGS_FILE)


def link_models(home: Path, *models: Path) -> None:
    """Set CHATLM_HOME to a folder with links to models, for the indices of a benchmark."""
    os.environ["CHATLM_HOME"] = str(home)
    (home / "models").mkdir(exist_ok=True)
    for model in models:
        if not (home / "models" / model.name).exists():
            (home / "models" / model.name).symlink_to(model, target_is_directory=True)


if __name__ == "__main__":
    main()
