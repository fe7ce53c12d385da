"""The shape of a model's matrix."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MatrixShape:
    """Sizes of a matrix, and whether it has a bias."""

    rows: int
    columns: int
    bias: bool = False
    alternating: int = 0
    """Where a file holds several matrices as one: how many rows of each alternate with those
    of the others; 0 for whole matrices one after the other."""
