"""Search among many vectors: speed, recall, memory and build time, beside comparing with each.

The vectors are spread around those of real passages: each is a real one plus noise that has the
real ones' covariance, as much of it as makes a vector as near to its origin as a real passage is to
the nearest other one. The queries are vectors of real questions. Each size is written and searched
in a process of its own. `benchmarks.retrieval` runs it.
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
    """Write `count` vectors around real ones, and return how near they are to them on average.

    Args:
        base: vectors of real passages, `(n, dimension)` rows of length 1.
        count: how many.
        into: a `.npy` file.
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
        made = origins + amount * noise
        return made / np.linalg.norm(made, axis=1, keepdims=True), origins

    low, high = 0.0, 4.0
    for _ in range(20):
        amount = (low + high) / 2
        made, origins = around(4000, amount)
        if (made * origins).sum(axis=1).mean() > nearness:
            low = amount
        else:
            high = amount
    matrix = np.lib.format.open_memmap(into, "w+", np.float32, (count, base.shape[1]))
    for begin in range(0, count, _BLOCK):
        matrix[begin : begin + _BLOCK] = around(min(_BLOCK, count - begin), amount)[0]
    matrix.flush()
    return nearness


def study(base: Matrix, questions: Matrix, count: int, folder: Path) -> dict[str, Any]:
    """Write and search `count` vectors spread around real ones; what was measured, by name.

    Args:
        base: vectors of real passages.
        questions: vectors of real questions.
        count: how many vectors.
        folder: an empty one.
    """
    nearness = spread(base, count, folder / EMBEDDINGS_FILE)
    np.save(folder / _QUESTIONS, questions)
    found: dict[str, Any] = {"vectors": count, "cosine to the real passage": round(nearness, 3)}
    for step in ("write", "search"):
        command = [sys.executable, "-m", __spec__.name, step, str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found |= json.loads(done.stdout)
    disk = sum(path.stat().st_size for path in folder.iterdir()) - questions.nbytes
    return found | {"disk, MB": round(disk / 1e6)}


def _write(folder: Path) -> dict[str, float]:
    matrix = np.load(folder / EMBEDDINGS_FILE, mmap_mode="r")
    with _peak() as peak:
        start = time.perf_counter()
        vectors.write(folder, matrix)
        seconds = time.perf_counter() - start
    return {"build, s": round(seconds, 1), "build, own memory at most, MB": round(peak[0] / 1e6)}


def _search(folder: Path) -> dict[str, float]:
    questions = np.load(folder / _QUESTIONS)
    vectors.load(folder)  # imports what it needs
    before = _own_memory()
    start = time.perf_counter()
    opened = vectors.load(folder)
    open_seconds = time.perf_counter() - start
    found, seconds = _timed(opened, questions)
    own = _own_memory() - before
    right, flat = _timed(
        vectors.VectorIndex(np.load(folder / EMBEDDINGS_FILE, mmap_mode="r")), questions
    )
    hits = (found >= right[:, -1:] - 1e-5).sum()  # of equal vectors any is right
    return {
        "open, ms": round(1000 * open_seconds, 1),
        f"recall@{K}": round(float(hits) / right.size, 4),
        "search, median ms": _at(seconds, 50),
        "search, p95 ms": _at(seconds, 95),
        "search, own memory, MB": round(own / 1e6),
        "flat, median ms": _at(flat, 50),
        "flat, p95 ms": _at(flat, 95),
    }


def _timed(opened: vectors.VectorIndex, questions: Matrix) -> tuple[Matrix, list[float]]:
    """The cosines found for each question, and the seconds it took.

    All are asked twice: the first time brings the files into memory.
    """
    for _ in range(2):
        found, seconds = [], []
        for question in questions:
            start = time.perf_counter()
            _, cosines = opened.search(question, K)
            seconds.append(time.perf_counter() - start)
            found.append(cosines)
    return np.array(found), seconds


def _at(seconds: list[float], percent: int) -> float:
    return round(1000 * float(np.percentile(seconds, percent)), 2)


def _own_memory() -> int:
    """Bytes of this process that are no file's."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("This system does not say how much memory is a process's own.")


@contextmanager
def _peak() -> Iterator[list[int]]:
    """The most memory that was taken meanwhile, looked at ten times a second."""
    before = _own_memory()
    peak = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            peak[0] = max(peak[0], _own_memory() - before)

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
    wanted = parser.parse_args()
    print(json.dumps({"write": _write, "search": _search}[wanted.step](wanted.folder)))
