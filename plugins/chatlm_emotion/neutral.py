"""Tell texts without a mood from those that a classifier is merely unsure of.

A probe, a logistic regression on the encoder's state of a text, is fitted to texts with and without
a label. Its threshold is the lowest at which at least `TARGET_PRECISION` of the texts above it have
no label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TARGET_PRECISION = 0.85
"""Share of the held-out texts called neutral that are; that of other texts is lower."""

LEAST_TEXTS = 100
"""Texts of each kind, below which there is no probe."""

STRENGTH = 0.1
"""Inverse of the regularization, for states scaled to unit variance."""

_FOLDS = 5

_WEIGHT, _BIAS = "neutral.weight", "neutral.bias"

FloatArray = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NeutralProbe:
    """How likely a text has no label, by the encoder's mean state of it."""

    weight: NDArray[np.float32]
    """`(width,)`."""
    bias: float
    """Moved by the threshold, so that a text counts as neutral where the score is positive."""

    @classmethod
    def fit(cls, states: FloatArray, is_neutral: NDArray[np.bool_]) -> NeutralProbe | None:
        """Fit to states; None if there are too few of a kind, or they cannot be told apart.

        Texts of both kinds count alike in the fit. For the threshold every text is scored by a
        probe that was fitted to the others.

        Args:
            states: of texts of all kinds, `(texts, width)`.
            is_neutral: which of them have no label, `(texts,)`.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_predict

        if min(is_neutral.sum(), (~is_neutral).sum()) < LEAST_TEXTS:
            return None
        centre, spread = states.mean(0), states.std(0) + 1e-6
        scaled = (states - centre) / spread
        model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000)
        scores = cross_val_predict(model, scaled, is_neutral, cv=_FOLDS, method="decision_function")
        threshold = lowest_threshold(scores, is_neutral)
        if threshold is None:
            return None
        model.fit(scaled, is_neutral)
        weight = model.coef_[0] / spread
        bias = float(model.intercept_[0] - centre @ weight) - threshold
        return cls(weight.astype(np.float32), bias)

    def are_neutral(self, states: FloatArray) -> NDArray[np.bool_]:
        """Return which texts are neutral, from their states, `(texts, width)`."""
        scores: NDArray[np.float64] = np.asarray(states, np.float64) @ self.weight + self.bias
        return scores > 0

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the values to store, by name."""
        return {_WEIGHT: self.weight, _BIAS: np.array([self.bias], np.float32)}

    @classmethod
    def from_arrays(cls, stored: Mapping[str, Any], width: int) -> NeutralProbe | None:
        """Restore from tensors or arrays by name; None if a classifier has none.

        Args:
            stored: the arrays.
            width: of the encoder's states.

        Raises:
            ValueError: they do not fit together.
        """
        if _BIAS not in stored:
            return None
        weight, bias = (np.asarray(stored[name], np.float32) for name in (_WEIGHT, _BIAS))
        if weight.shape != (width,) or bias.shape != (1,):
            raise ValueError("its neutral probe has other shapes")
        return cls(weight, float(bias[0]))


def lowest_threshold(scores: NDArray[np.float64], is_neutral: NDArray[np.bool_]) -> float | None:
    """Return the lowest score above which `TARGET_PRECISION` of the texts are neutral.

    Neutral texts count as if there were as many as others, so that the threshold does not depend on
    how many were gathered.

    Args:
        scores: of the texts, `(texts,)`.
        is_neutral: which have no label, `(texts,)`.

    Returns:
        None if no threshold above which at least a twentieth of the neutral texts lie reaches it.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(is_neutral[order]) / is_neutral.sum()
    misses = np.cumsum(~is_neutral[order]) / (~is_neutral).sum()
    good = np.flatnonzero((hits >= TARGET_PRECISION * (hits + misses)) & (hits >= 0.05))
    return float(scores[order[good[-1]]]) - 1e-9 if len(good) else None
