"""The shape of a model's matrix."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MatrixShape:
    """Sizes of a matrix, and whether it has a bias."""

    rows: int
    columns: int
    bias: bool = False
