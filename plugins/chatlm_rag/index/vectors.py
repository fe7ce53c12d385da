"""Finds the vectors nearest to a query's, with FAISS; it knows no texts.

Up to `FLAT_MOST` vectors the query is compared with each: exact, and no index to build. More are
put into cells around their means, √n of them, as 8-bit codes (`IndexIVFScalarQuantizer`). A search
looks into the cells nearest to the query and compares what it finds there with the exact vectors.
How many cells that are is measured when the index is written: the fewest that find `RECALL` of the
10 nearest of made-up questions. Each of those lies halfway between two vectors; the questions
people ask are found more often.

The vectors themselves, `embeddings.npy`, and the cells are read where they are on disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from chatlm_rag.index.checkpoint import EMBEDDINGS_FILE
from chatlm_rag.index.folder import load_mmap

if TYPE_CHECKING:
    import faiss
    import numpy as np
    from numpy.typing import NDArray


CELLS_FILE = "cells.faiss"
"""In an index's folder, when it has more than `FLAT_MOST` vectors."""


MAX_FLAT_VECTORS = 100_000


TARGET_RECALL = 0.95


_TUNING_QUERIES = 200


_RESCORE_FACTOR = 4
"""How many times as many codes as wanted vectors are compared exactly."""


_ADD_BATCH = 65_536
"""Vectors that are read into memory at once."""


_COSINE_TOLERANCE = 1e-5
"""A smaller difference of cosines is rounding."""


_TRAINING_VECTORS_PER_CELL = 64
"""Vectors for each cell that its mean is found with."""


def write(folder: Path, matrix: NDArray[np.float32]) -> None:
    """Write what a folder with so many vectors needs beside its `embeddings.npy`.

    Args:
        folder: of the index.
        matrix: what is in that file, `(n, dimension)` rows of length 1.
    """
    if len(matrix) > MAX_FLAT_VECTORS:
        import faiss

        faiss.write_index(_build_ivf(matrix), str(folder / CELLS_FILE))


def load(folder: Path) -> VectorIndex:
    """The vectors of an index's folder.

    Raises:
        OSError, ValueError, RuntimeError: they are not there, or damaged.
    """
    import faiss
    import numpy as np

    matrix = load_mmap(folder / EMBEDDINGS_FILE)
    if matrix.ndim != 2 or matrix.dtype != np.float32:
        raise ValueError(f"{EMBEDDINGS_FILE} holds no vectors")
    if len(matrix) <= MAX_FLAT_VECTORS:
        return VectorIndex(matrix)
    return VectorIndex(matrix, faiss.read_index(str(folder / CELLS_FILE), faiss.IO_FLAG_MMAP))


class VectorIndex:
    """Open vectors; safe to use in several threads.

    Args:
        matrix: `(n, dimension)` rows of length 1.
        ivf: an index of the same rows; None compares with every row.
    """

    def __init__(self, matrix: NDArray[np.float32], ivf: faiss.Index | None = None) -> None:
        self._matrix = matrix
        self._ivf = ivf

    def __len__(self) -> int:
        return len(self._matrix)

    def search(
        self, query: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The ids and cosines of the nearest vectors, nearest first.

        Args:
            query: `(dimension,)`, of length 1.
            k: how many; there may be fewer.
        """
        if self._ivf is None:
            ids, cosines = _nearest(query[None], self._matrix, k)
            return ids[0], cosines[0]
        _, found = self._ivf.search(query[None], min(_RESCORE_FACTOR * k, len(self)))
        ids = found[0][found[0] >= 0]
        ids.sort()  # so that the disk is read forwards
        cosines = self.cosines(query, ids)
        best = (-cosines).argsort(kind="stable")[:k]
        return ids[best], cosines[best]

    def cosines(self, query: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """How near the query some vectors are, -1 to 1."""
        return cast("NDArray[np.float32]", self._matrix[ids] @ query)


def _nearest(
    queries: NDArray[np.float32], matrix: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    import faiss

    cosines, ids = faiss.knn(queries, matrix, min(k, len(matrix)), faiss.METRIC_INNER_PRODUCT)
    return ids, cosines


def _build_ivf(matrix: NDArray[np.float32]) -> faiss.IndexIVF:
    import faiss
    import numpy as np

    count, dimension = matrix.shape
    cells = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dimension),
        dimension,
        2 ** round(np.log2(count) / 2),
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
    )
    random = np.random.default_rng(0)  # the same index from the same vectors
    sample = random.choice(
        count, min(_TRAINING_VECTORS_PER_CELL * cells.nlist, count), replace=False
    )
    sample.sort()
    cells.train(matrix[sample])
    for begin in range(0, count, _ADD_BATCH):
        cells.add(matrix[begin : begin + _ADD_BATCH])
    pairs = random.choice(count, (_TUNING_QUERIES, 2))
    questions = matrix[pairs[:, 0]] + matrix[pairs[:, 1]]
    questions /= np.linalg.norm(questions, axis=1, keepdims=True)
    _tune_nprobe(cells, matrix, questions)
    return cells


def _tune_nprobe(
    ivf: faiss.IndexIVF, matrix: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    """Let searches look into the fewest cells, a power of two, that find enough."""
    _, right = _nearest(queries, matrix, 10)
    needed = right[:, -1:] - _COSINE_TOLERANCE  # so that of equal vectors any will do
    opened = VectorIndex(matrix, ivf)
    ivf.nprobe = 1
    while ivf.nprobe < ivf.nlist:
        found = [opened.search(question, 10)[1] for question in queries]
        hits = sum(
            int((cosines >= least).sum()) for cosines, least in zip(found, needed, strict=True)
        )
        if hits >= TARGET_RECALL * right.size:
            return
        ivf.nprobe = min(2 * ivf.nprobe, ivf.nlist)
