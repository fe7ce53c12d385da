"""Nearest-neighbour search over the chunk vectors, exact or with an IVF index (FAISS).

Up to `MAX_FLAT_VECTORS` vectors, the query is compared with each of them: exact, and there is no
index to build. More vectors are clustered into √n cells and stored as 8-bit codes
(`IndexIVFScalarQuantizer`); a search probes the cells nearest to the query and rescores the
candidates with the exact vectors. The number of probes is tuned when the index is written: the
smallest that reaches `TARGET_RECALL` of the 10 nearest neighbours of synthetic queries. Each of
those lies halfway between two vectors; for real questions the recall is higher.

The vectors (`embeddings.npy`) and the cells are memory-mapped.
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
"""In an index version with more than `MAX_FLAT_VECTORS` vectors."""


MAX_FLAT_VECTORS = 100_000


TARGET_RECALL = 0.95


_TUNING_QUERIES = 200


_RESCORE_FACTOR = 4
"""Candidates that are rescored exactly, as a multiple of the number of results."""


_ADD_BATCH = 65_536
"""Vectors that are added to the cells at a time."""


_COSINE_TOLERANCE = 1e-5
"""Smaller differences between cosines are rounding errors."""


_TRAINING_VECTORS_PER_CELL = 64
"""Training vectors for the k-means clustering, per cell."""


def write(folder: Path, matrix: NDArray[np.float32]) -> None:
    """Write the IVF index beside `embeddings.npy` if there are enough vectors to need one.

    Args:
        folder: the index version.
        matrix: the vectors in `embeddings.npy`, `(n, dimension)` unit vectors.
    """
    if len(matrix) > MAX_FLAT_VECTORS:
        import faiss

        faiss.write_index(_build_ivf(matrix), str(folder / CELLS_FILE))


def load(folder: Path) -> VectorIndex:
    """Open the vectors of an index version.

    Raises:
        OSError, ValueError, RuntimeError: they are missing or damaged.
    """
    import faiss
    import numpy as np

    matrix = load_mmap(folder / EMBEDDINGS_FILE)
    if matrix.ndim != 2 or matrix.dtype != np.float32:
        raise ValueError(f"{EMBEDDINGS_FILE} does not contain vectors")
    if len(matrix) <= MAX_FLAT_VECTORS:
        return VectorIndex(matrix)
    return VectorIndex(matrix, faiss.read_index(str(folder / CELLS_FILE), faiss.IO_FLAG_MMAP))


class VectorIndex:
    """Searchable vectors; thread-safe.

    Args:
        matrix: unit vectors, `(n, dimension)`.
        ivf: an IVF index of the same vectors; None for exact search.
    """

    def __init__(self, matrix: NDArray[np.float32], ivf: faiss.Index | None = None) -> None:
        self._matrix = matrix
        self._ivf = ivf

    def __len__(self) -> int:
        return len(self._matrix)

    def search(
        self, query: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the ids and cosines of the nearest vectors, nearest first.

        Args:
            query: a unit vector, `(dimension,)`.
            k: maximum number of results.
        """
        if self._ivf is None:
            ids, cosines = _nearest(query[None], self._matrix, k)
            return ids[0], cosines[0]
        _, found = self._ivf.search(query[None], min(_RESCORE_FACTOR * k, len(self)))
        ids = found[0][found[0] >= 0]
        ids.sort()  # read the file sequentially
        cosines = self.cosines(query, ids)
        best = (-cosines).argsort(kind="stable")[:k]
        return ids[best], cosines[best]

    def cosines(self, query: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the cosines of some vectors with the query, -1 to 1."""
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
    random = np.random.default_rng(0)  # reproducible: the same vectors give the same index
    sample = random.choice(
        count, min(_TRAINING_VECTORS_PER_CELL * cells.nlist, count), replace=False
    )
    sample.sort()
    cells.train(matrix[sample])
    for start in range(0, count, _ADD_BATCH):
        cells.add(matrix[start : start + _ADD_BATCH])
    pairs = random.choice(count, (_TUNING_QUERIES, 2))
    queries = matrix[pairs[:, 0]] + matrix[pairs[:, 1]]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    _tune_nprobe(cells, matrix, queries)
    return cells


def _tune_nprobe(
    ivf: faiss.IndexIVF, matrix: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    """Set `nprobe` to the smallest power of two that reaches `TARGET_RECALL`."""
    _, exact = _nearest(queries, matrix, 10)
    thresholds = exact[:, -1:] - _COSINE_TOLERANCE  # among equal vectors, any one counts
    index = VectorIndex(matrix, ivf)
    ivf.nprobe = 1
    while ivf.nprobe < ivf.nlist:
        results = [index.search(query, 10)[1] for query in queries]
        hits = sum(
            int((cosines >= threshold).sum())
            for cosines, threshold in zip(results, thresholds, strict=True)
        )
        if hits >= TARGET_RECALL * exact.size:
            return
        ivf.nprobe = min(2 * ivf.nprobe, ivf.nlist)
