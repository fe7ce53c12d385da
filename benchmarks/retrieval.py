"""Compare the quality and speed of chatlm's search with plain BM25 and plain dense search.

Run it with `python -m benchmarks.retrieval`; `--data` names the folder with the collections in BEIR
format, and `--collection` more such folders. All systems answer the same questions in one process,
one at a time. `--embedder` and `--reranker` name further models, which are measured on each
collection with the size of the index and the paired difference to the better half of the fused
ranking. Embedding speed is compared with sentence-transformers on single texts and on all texts at
once. Then large sets of vectors are searched; see `benchmarks.retrieval_vectors`. There is no pass
or fail.
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
from chatlm_rag.formatting import disk_usage
from chatlm_rag.index import builder
from chatlm_rag.index.checkpoint import EMBEDDINGS_FILE
from chatlm_rag.index.embedding import Embedder
from chatlm_rag.index.folder import find_index
from chatlm_rag.retrieval.search import MAX_RERANKED, Index, Reranker

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


def chatlm_reranked(index: Index, reranker: Reranker) -> Ranker:
    """Rank documents as `chatlm rag search` does with a reranker."""

    def rank(question: str) -> Sequence[str]:
        hits = index.search(question, MAX_RERANKED, reranker)
        return list(dict.fromkeys(hit.chunk.source for hit in hits))[:100]

    return rank


def compare_models(
    collection: Path, embedders: Sequence[str], rerankers: Mapping[str, Reranker], limit: int
) -> Rows:
    """Measure chatlm's search with each embedder, and with each reranker after it.

    Args:
        collection: a folder in BEIR format.
        embedders: names or folders.
        rerankers: by name.
        limit: questions at most.
    """
    questions = read_questions(collection / "queries.jsonl")
    judged = read_judgements(collection / "qrels.tsv")
    answerable = [name for name in questions if any(g > 0 for g in judged.get(name, {}).values())]
    asked = {name: questions[name] for name in answerable[:limit]}
    rows: Rows = {}
    for number, embedder in enumerate(embedders):
        name = f"{collection.name.replace('_', '-')}-{number}"
        start = time.perf_counter()
        built = builder.build(
            name, (Source(str(collection / "corpus.jsonl")),), silent, embedder=embedder
        )
        seconds = time.perf_counter() - start
        folder = find_index(name)
        index = Index.open(folder)
        size = {
            "passages": float(built.manifest.chunk_count),
            "build s": seconds,
            "index MB": disk_usage(folder) / 1e6,
        }
        label = Path(embedder).name
        rows[label] = measure(chatlm_search(index), asked, judged) | size
        card = evaluation.evaluate(index, asked, judged)
        for ranking, metrics in card.metrics.items():
            rows[f"{label}, {ranking}"] = {key: each.mean for key, each in metrics.items()}
        halves = ("dense", "lexical")
        better = max(halves, key=lambda half: card.metrics[half]["ndcg@10"].mean)
        gain = card.fused_gains[better]
        rows[f"{label}, fused - {better}"] = {
            "ndcg@10": gain.mean, "low": gain.low, "high": gain.high
        }  # fmt: skip
        for title, reranker in rerankers.items():
            ranker = chatlm_reranked(index, reranker)
            rows[f"{label} + {title}"] = measure(ranker, asked, judged)
    return rows


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
    parser.add_argument(
        "--collection", type=Path, action="append", default=[], help="one more folder; repeatable"
    )
    parser.add_argument(
        "--embedder", action="append", default=[], help="one more name or folder; repeatable"
    )
    parser.add_argument(
        "--reranker", action="append", default=[], help="name or folder; repeatable"
    )
    parser.add_argument("--questions", type=int, default=300, help="of a collection, at most")
    parser.add_argument("--only-models", action="store_true", help="skip speed and vectors")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model_folder = ensure_model(EMBEDDER).folder
    model = SentenceTransformer(str(model_folder), local_files_only=True)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        rerankers = {
            Path(name).name: Reranker(ensure_model(name).folder) for name in options.reranker
        }
        named = [(name, ensure_model(name).folder) for name in options.embedder]
        link_models(Path(home), model_folder)
        # a model of the catalogue keeps its name and so its prompts; a folder is used as it is
        embedders = [EMBEDDER]
        for name, path in named:
            if Path(name).is_dir():
                embedders.append(str(path))
            else:
                (Path(home) / "models" / path.name).symlink_to(path)
                embedders.append(name)
        collections = [*(options.data / name for name in COLLECTIONS), *options.collection]
        for collection in collections:
            results[f"models, {collection.name}"] = compare_models(
                collection, embedders, rerankers, options.questions
            )
            print(f"the models on {collection.name} are done", file=sys.stderr)
        if options.only_models:
            print(json.dumps(results, indent=2)) if options.json else report(results)
            return
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
        width = max(map(len, rows)) + 1
        sizes = {name: max(len(name), 10) + 2 for name in columns}
        print(f"  {'':<{width}}" + "".join(f"{name:>{sizes[name]}}" for name in columns))
        for system, row in rows.items():
            cells = (
                f"{row[name]:>{sizes[name]}.3f}" if name in row else " " * sizes[name]
                for name in columns
            )
            print(f"  {system:<{width}}" + "".join(cells))


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
