"""Two rankings made one: what means the same, and what has the same words.

Each score is divided by the best of its kind, then both are added: the "TM2C2" of Bruch, Gai and
Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (2023). Reciprocal rank fusion, which
forgets how sure each side is, found less on both collections of `benchmarks.retrieval`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DENSE_WEIGHT = 0.8
"""How much of a fused score is the vectors'; the rest is the words'. It is large since cosines of
good and bad pieces are nearer to each other than BM25 scores; 0.7 to 0.9 are about as good."""


def fuse(dense: NDArray[np.float32], lexical: NDArray[np.float32]) -> NDArray[np.float32]:
    """The fused score of each candidate, 0 to 1; 1 for one that is the best of both kinds.

    Args:
        dense: cosines with the query, -1 to 1. The best candidate of all has to be among them.
        lexical: BM25 scores of the same candidates, 0 or more; the best of all among them too.
    """
    if not len(dense):
        return dense
    by_vector = (dense + 1) / max(float(dense.max()) + 1, 1e-6)
    by_words = lexical / max(float(lexical.max()), 1e-6)
    return cast("NDArray[np.float32]", DENSE_WEIGHT * by_vector + (1 - DENSE_WEIGHT) * by_words)
