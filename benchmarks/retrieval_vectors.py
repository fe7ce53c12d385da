"""Measure IVF search over many vectors: speed, recall, memory and build time against exact search.

The vectors are synthetic: each is that of a real passage plus noise with the covariance of the real
vectors. The amount of noise is chosen so that a vector is as near to its origin as a real passage
to its nearest neighbour. The queries are vectors of real questions. Writing and searching run in a
process of their own for each size. `benchmarks.retrieval` runs this module.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatlm_rag.index import vectors
from chatlm_rag.index.checkpoint import EMBEDDINGS_FILE

K = 10
_BLOCK = 50_000
_QUESTIONS = "questions.npy"

Matrix = NDArray[np.float32]


def spread(base: Matrix, count: int, into: Path) -> float:
    """Write synthetic vectors, and return their mean cosine with the real ones they are based on.

    Args:
        base: unit vectors of real passages, `(n, dimension)`.
        count: number of vectors to write.
        into: path of the new `.npy` file.
    """
    random = np.random.default_rng(0)
    base = np.unique(base, axis=0)
    similar = base @ base.T
    np.fill_diagonal(similar, -1)
    nearness = float(similar.max(axis=1).mean())
    weights, axes = np.linalg.eigh(np.cov(base.T))
    root = (axes * np.sqrt(np.maximum(weights, 0))).T.astype(np.float32)

    def around(rows: int, amount: float) -> tuple[Matrix, Matrix]:
        origins = base[random.integers(len(base), size=rows)]
        noise = random.standard_normal(origins.shape, dtype=np.float32) @ root
        noisy = origins + amount * noise
        return noisy / np.linalg.norm(noisy, axis=1, keepdims=True), origins

    low, high = 0.0, 4.0
    for _ in range(20):
        amount = (low + high) / 2
        noisy, origins = around(4000, amount)
        if (noisy * origins).sum(axis=1).mean() > nearness:
            low = amount
        else:
            high = amount
    matrix = np.lib.format.open_memmap(into, "w+", np.float32, (count, base.shape[1]))
    for begin in range(0, count, _BLOCK):
        matrix[begin : begin + _BLOCK] = around(min(_BLOCK, count - begin), amount)[0]
    matrix.flush()
    return nearness


def study(base: Matrix, questions: Matrix, count: int, folder: Path) -> dict[str, Any]:
    """Write and search synthetic vectors, and return the measurements by name.

    Args:
        base: vectors of real passages.
        questions: vectors of real questions.
        count: number of vectors.
        folder: an empty folder.
    """
    nearness = spread(base, count, folder / EMBEDDINGS_FILE)
    np.save(folder / _QUESTIONS, questions)
    results: dict[str, Any] = {"vectors": count, "cosine to the real passage": round(nearness, 3)}
    for step in ("write", "search"):
        command = [sys.executable, "-m", __spec__.name, step, str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results |= json.loads(done.stdout)
    disk = sum(path.stat().st_size for path in folder.iterdir()) - questions.nbytes
    return results | {"disk, MB": round(disk / 1e6)}


def _write(folder: Path) -> dict[str, float]:
    matrix = np.load(folder / EMBEDDINGS_FILE, mmap_mode="r")
    with _peak() as peak:
        start = time.perf_counter()
        vectors.write(folder, matrix)
        seconds = time.perf_counter() - start
    return {"build, s": round(seconds, 1), "build, own memory at most, MB": round(peak[0] / 1e6)}


def _search(folder: Path) -> dict[str, float]:
    questions = np.load(folder / _QUESTIONS)
    vectors.load(folder)  # not timed: it imports the libraries
    before = _anonymous_memory()
    start = time.perf_counter()
    index = vectors.load(folder)
    open_seconds = time.perf_counter() - start
    cosines, seconds = _timed(index, questions)
    memory = _anonymous_memory() - before
    exact, flat = _timed(
        vectors.VectorIndex(np.load(folder / EMBEDDINGS_FILE, mmap_mode="r")), questions
    )
    hits = (cosines >= exact[:, -1:] - 1e-5).sum()  # among equal vectors, any one counts
    return {
        "open, ms": round(1000 * open_seconds, 1),
        f"recall@{K}": round(float(hits) / exact.size, 4),
        "search, median ms": _at(seconds, 50),
        "search, p95 ms": _at(seconds, 95),
        "search, own memory, MB": round(memory / 1e6),
        "flat, median ms": _at(flat, 50),
        "flat, p95 ms": _at(flat, 95),
    }


def _timed(index: vectors.VectorIndex, questions: Matrix) -> tuple[Matrix, list[float]]:
    """Return the cosines of the results of each question, and the seconds it took.

    Two passes run; the first one brings the files into memory.
    """
    for _ in range(2):
        results, seconds = [], []
        for question in questions:
            start = time.perf_counter()
            _, cosines = index.search(question, K)
            seconds.append(time.perf_counter() - start)
            results.append(cosines)
    return np.array(results), seconds


def _at(seconds: list[float], percent: int) -> float:
    return round(1000 * float(np.percentile(seconds, percent)), 2)


def _anonymous_memory() -> int:
    """Return the resident memory of this process that is not mapped from files, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("This system does not report the anonymous memory of a process.")


@contextmanager
def _peak() -> Iterator[list[int]]:
    """Record the peak of the additional memory, sampled ten times a second."""
    before = _anonymous_memory()
    peak = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            peak[0] = max(peak[0], _anonymous_memory() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("step", choices=("write", "search"))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print(json.dumps({"write": _write, "search": _search}[options.step](options.folder)))
