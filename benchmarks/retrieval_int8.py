"""Measure whether an embedder can compute in 8 bits: speed, and what it costs in quality.

Run it with `python -m benchmarks.retrieval_int8`; `--data` and `--collection` name collections as
for `benchmarks.retrieval`. All linear layers multiply 8-bit integers (`torch._int_mm`): weights are
rounded for each output, activations for each token when they are computed. That is compared with
what chatlm does, bfloat16 where the processor has it, and with float32. Speeds are measured in
turns, and nDCG@10 by meaning alone, with the paired difference for each question.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from benchmarks.retrieval import COLLECTIONS, EMBEDDER
from chatlm import ensure_model
from chatlm_rag.evaluation import METRICS, read_judgements, read_questions
from chatlm_rag.index.embedding import BATCH_SIZE, Embedder

FloatArray = NDArray[np.float32]
Embedders = Mapping[str, Callable[[Sequence[str]], FloatArray]]
"""Functions from texts to unit vectors, by name."""
FLOAT32, CHATLM, INT8 = "float32", "chatlm", "int8"


class Int8Linear(nn.Module):
    """A linear layer whose product is one of 8-bit integers.

    Args:
        layer: the layer to round.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        scale = weight.abs().amax(1, keepdim=True) / 127
        self._weight = (weight / scale).round().to(torch.int8).t().contiguous()
        self._scale = scale.t().contiguous()
        self._bias = layer.bias.detach().float()

    def forward(self, states: Tensor) -> Tensor:
        """Return the layer's output, `(…, outputs)`, in the dtype of the states."""
        flat = states.reshape(-1, states.shape[-1]).float()
        scale = flat.abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
        product = torch._int_mm((flat / scale).round().to(torch.int8), self._weight)
        output = product.float().mul_(scale).mul_(self._scale).add_(self._bias)
        return output.to(states.dtype).reshape(*states.shape[:-1], -1)


def in_8_bits(model: SentenceTransformer) -> SentenceTransformer:
    """Return a copy of an embedder with 8-bit layers, its other layers in bfloat16."""
    rounded = copy.deepcopy(model).bfloat16()

    def replace(module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
            else:
                replace(child)

    replace(rounded)
    return rounded


def embed(model: SentenceTransformer, texts: Sequence[str]) -> FloatArray:
    """Return unit vectors, `(len(texts), dimension)`, in batches like those of chatlm."""
    order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
    vectors = np.empty((len(texts), model.get_embedding_dimension() or 0), np.float32)
    for start in range(0, len(texts), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        found = model.encode(
            [texts[place] for place in batch],
            batch_size=BATCH_SIZE,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        vectors[batch] = torch.nn.functional.normalize(found.float()).numpy()
    return vectors


def measure(collection: Path, models: Embedders, documents: int, questions: int) -> dict[str, Any]:
    """Return nDCG@10 of each computation, and the paired difference of 8 bits to chatlm's.

    Args:
        collection: a folder in BEIR format.
        models: functions from texts to vectors, by name.
        documents: at most; those that are judged come first.
        questions: at most.
    """
    asked = read_questions(collection / "queries.jsonl")
    judged = read_judgements(collection / "qrels.tsv")
    names = [name for name in asked if any(g > 0 for g in judged.get(name, {}).values())]
    names = names[:questions]
    wanted = {document for name in names for document in judged[name]}
    lines = (collection / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    rows = sorted(map(json.loads, lines), key=lambda row: row["_id"] not in wanted)[:documents]
    texts = [f"{row['title']}\n{row['text']}"[:1000] for row in rows]
    ids = [row["_id"] for row in rows]
    ndcg, found = METRICS["ndcg@10"], {}
    for title, run in models.items():
        matrix, queries = run(texts), run([asked[name] for name in names])
        ranked = [[ids[at] for at in np.argsort(-(matrix @ query))[:100]] for query in queries]
        found[title] = [ndcg(each, judged[name]) for each, name in zip(ranked, names, strict=True)]
        print(f"{collection.name}, {title} is done", file=sys.stderr)
    apart = np.subtract(found[INT8], found[CHATLM])
    return {
        "documents": len(ids),
        "questions": len(names),
        **{title: statistics.mean(values) for title, values in found.items()},
        "int8 - chatlm": float(apart.mean()),
        "interval": float(1.96 * apart.std(ddof=1) / len(apart) ** 0.5),
    }


def speed(models: Embedders, texts: Sequence[str], rounds: int) -> dict[str, float]:
    """Return passages a second of each computation, of its fastest round."""
    best = dict.fromkeys(models, float("inf"))
    for _ in range(rounds + 1):  # the first one warms up
        for title, run in models.items():
            start = time.perf_counter()
            run(texts)
            best[title] = min(best[title], time.perf_counter() - start)
    return {title: len(texts) / seconds for title, seconds in best.items()}


def main() -> None:
    """Run the benchmark and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/retrieval"))
    parser.add_argument("--collection", type=Path, action="append", default=[])
    parser.add_argument("--documents", type=int, default=1500, help="of a collection, at most")
    parser.add_argument("--questions", type=int, default=300, help="of a collection, at most")
    parser.add_argument("--texts", type=int, default=64, help="passages of the measured speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["speed", "quality"])
    options = parser.parse_args()
    folder = ensure_model(EMBEDDER).folder
    embedder = Embedder(folder)
    exact = SentenceTransformer(str(folder), local_files_only=True)
    rounded = in_8_bits(exact)
    models: Embedders = {
        FLOAT32: lambda texts: embed(exact, texts),
        CHATLM: embedder.embed,
        INT8: lambda texts: embed(rounded, texts),
    }
    lines = (options.data / COLLECTIONS[0] / "corpus.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in lines.splitlines()[: options.texts]]
    texts = [f"{row['title']}\n{row['text']}"[:900] for row in rows]
    results: dict[str, Any] = {}
    if options.only != "quality":
        results["passages a second"] = speed(models, texts, options.rounds)
    if options.only != "speed":
        cosines = np.einsum("nd,nd->n", embed(exact, texts), embed(rounded, texts))
        results["cosine with float32"] = {
            "mean": float(cosines.mean()), "least": float(cosines.min())
        }  # fmt: skip
        for collection in (*(options.data / name for name in COLLECTIONS), *options.collection):
            results[collection.name] = measure(
                collection, models, options.documents, options.questions
            )
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
