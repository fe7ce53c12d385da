"""Lower the confidence of a classifier in texts unlike those that it was trained on.

A classifier is as sure of a text from another source as of its own, and wrong far more often: the
one of moods, trained on tweets, was sure of 72 % on comments of a forum and right in 51 %. How
unlike a text is can be seen in the encoder's states: those of the training texts lie close to a
small subspace. Probabilities are mixed with the even distribution by the share of a text's state
that lies outside it, so that the most probable label stays the same.

The share of the even distribution was chosen on GoEmotions' development texts, with a look at 500
of ISEAR; `python -m benchmarks.emotion --out-of-domain` measures it on others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_EVEN_SHARE = 0.3
"""Share of the even distribution for a text that is wholly unlike the training texts."""

DIMENSIONS = 32
"""Dimensions of the subspace."""

FLOOR_QUANTILE, CEILING_QUANTILE = 0.5, 0.95
"""Quantiles of the held-out texts' distance, between which the share rises from 0."""

FITTED_TEXTS = 4_000
"""Training texts from which the subspace is computed."""

_CENTRE, _BASIS, _RANGE = "shift.centre", "shift.basis", "shift.range"

FloatArray = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DomainShift:
    """How unlike the training texts a text is, by the encoder's mean state of it."""

    centre: NDArray[np.float32]
    """Mean state of the training texts, `(width,)`."""
    basis: NDArray[np.float32]
    """Orthonormal directions in which their states differ most, `(DIMENSIONS, width)`."""
    floor: float
    """Distance up to which a text is like them."""
    ceiling: float
    """Distance from which it is wholly unlike them."""

    @classmethod
    def fit(cls, states: FloatArray, held_out: FloatArray) -> DomainShift | None:
        """Fit to states; None if there are too few texts for a subspace.

        Args:
            states: of training texts, `(texts, width)`.
            held_out: of other texts from the same source, `(texts, width)`.
        """
        if len(states) < 2 * DIMENSIONS or len(held_out) < DIMENSIONS:
            return None
        centre = states.mean(0)
        _, _, directions = np.linalg.svd(states - centre, full_matrices=False)
        fitted = cls(
            centre.astype(np.float32), directions[:DIMENSIONS].astype(np.float32), 0.0, 1.0
        )
        low, high = np.quantile(fitted.distances(held_out), [FLOOR_QUANTILE, CEILING_QUANTILE])
        if high - low < 1e-3:
            return None
        return cls(fitted.centre, fitted.basis, float(low), float(high))

    def distances(self, states: FloatArray) -> NDArray[np.float64]:
        """Return the share of each state's length that is outside the subspace, 0 to 1."""
        away = np.asarray(states, np.float64) - self.centre
        inside = away @ self.basis.T
        whole = (away**2).sum(1)
        outside = np.clip(whole - (inside**2).sum(1), 0, None)
        shares: NDArray[np.float64] = np.sqrt(outside / np.maximum(whole, 1e-12))
        return shares

    def soften(self, probabilities: NDArray[np.float64], states: FloatArray) -> Any:
        """Return probabilities mixed with the even distribution by how unlike each text is.

        Args:
            probabilities: of the labels, `(texts, labels)`.
            states: `(texts, width)`.
        """
        position = (self.distances(states) - self.floor) / (self.ceiling - self.floor)
        even = MAX_EVEN_SHARE * np.clip(position, 0, 1)[:, None]
        return (1 - even) * probabilities + even / probabilities.shape[1]

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the values to store, by name."""
        return {
            _CENTRE: self.centre,
            _BASIS: self.basis,
            _RANGE: np.array([self.floor, self.ceiling], np.float32),
        }

    @classmethod
    def from_arrays(cls, stored: Mapping[str, Any]) -> DomainShift | None:
        """Restore from tensors or arrays by name; None if a classifier has none.

        Raises:
            ValueError: they do not fit together.
        """
        if _RANGE not in stored:
            return None
        centre, basis, limits = (
            np.asarray(stored[name], np.float32) for name in (_CENTRE, _BASIS, _RANGE)
        )
        if basis.ndim != 2 or basis.shape[1:] != centre.shape or limits.shape != (2,):
            raise ValueError("its domain shift has other shapes")
        if not limits[0] < limits[1]:
            raise ValueError("its domain shift has an empty range")
        return cls(centre, basis, float(limits[0]), float(limits[1]))
