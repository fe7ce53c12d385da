"""Tell texts without a mood from those that a classifier is merely unsure of.

A probe, a logistic regression on the encoder's state of a text, is fitted to texts with and without
a label. Where a classifier is unsure, a text is neutral if the probe's score is above a threshold:
the lowest at which `TARGET_PRECISION` of the texts above it have no label, in each source of texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TARGET_PRECISION = 0.82
"""Share of the texts called neutral that are, where as many are neutral as are not."""

LEAST_RECALL = 0.03
"""A threshold above which fewer neutral texts lie does not count."""

LEAST_TEXTS = 100
"""Texts of each kind, below which there is no probe."""

STRENGTH = 0.003
"""Inverse of the regularization, for states scaled to unit variance."""

_FOLDS = 5

_WEIGHT, _BIAS = "neutral.weight", "neutral.bias"

FloatArray = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NeutralProbe:
    """Whether a text has no label, by the encoder's mean state of it."""

    weight: NDArray[np.float32]
    """`(width,)`."""
    bias: float
    """Such that the score of a neutral text is positive."""

    @classmethod
    def fit(
        cls,
        states: FloatArray,
        is_neutral: NDArray[np.bool_],
        sources: NDArray[np.int64] | None = None,
    ) -> NeutralProbe | None:
        """Fit to states; None if there are too few of a kind, or they cannot be told apart.

        Texts of both kinds count alike in the fit. For the threshold every text is scored by a
        probe that was fitted to others.

        Args:
            states: of texts of all kinds, `(texts, width)`.
            is_neutral: which of them have no label, `(texts,)`.
            sources: a number for the source of each text, `(texts,)`; None for a single one.
                The threshold is that of the source in which the kinds are hardest to tell apart.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict

        if min(is_neutral.sum(), (~is_neutral).sum()) < LEAST_TEXTS:
            return None
        centre, spread = states.mean(0), states.std(0) + 1e-6
        scaled = (states - centre) / spread
        model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=3000)
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
        scores = cross_val_predict(model, scaled, is_neutral, cv=folds, method="decision_function")
        thresholds = []
        for source in [0] if sources is None else np.unique(sources):
            of_it = np.full(len(scores), True) if sources is None else sources == source
            if is_neutral[of_it].all() or not is_neutral[of_it].any():
                continue
            threshold = lowest_threshold(scores[of_it], is_neutral[of_it])
            if threshold is None:
                return None
            thresholds.append(threshold)
        if not thresholds:
            return None
        model.fit(scaled, is_neutral)
        weight = model.coef_[0] / spread
        bias = float(model.intercept_[0] - centre @ weight) - max(thresholds)
        return cls(weight.astype(np.float32), bias)

    def are_neutral(self, states: FloatArray) -> NDArray[np.bool_]:
        """Return which texts are neutral, by their states, `(texts, width)`."""
        scores: NDArray[np.float64] = np.asarray(states, np.float64) @ self.weight + self.bias
        return scores > 0

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the values to store, by name."""
        return {_WEIGHT: self.weight, _BIAS: np.array([self.bias], np.float32)}

    @classmethod
    def from_arrays(cls, stored: Mapping[str, Any]) -> NeutralProbe | None:
        """Restore from tensors or arrays by name; None if a classifier has none.

        Raises:
            ValueError: they do not fit together.
        """
        if _BIAS not in stored:
            return None
        weight, bias = (np.asarray(stored[name], np.float32) for name in (_WEIGHT, _BIAS))
        if weight.ndim != 1 or bias.shape != (1,):
            raise ValueError("its neutral probe has other shapes")
        return cls(weight, float(bias[0]))


def lowest_threshold(scores: NDArray[np.float64], is_neutral: NDArray[np.bool_]) -> float | None:
    """Return the lowest score above which `TARGET_PRECISION` of the texts are neutral.

    Neutral texts are weighed as if there were as many as others, so that it does not matter how
    many of each kind were gathered.

    Args:
        scores: of the texts, `(texts,)`.
        is_neutral: which have no label, `(texts,)`; some have, and some have not.

    Returns:
        None if no threshold reaches it.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(is_neutral[order]) / is_neutral.sum()
    misses = np.cumsum(~is_neutral[order]) / (~is_neutral).sum()
    good = (hits >= TARGET_PRECISION * (hits + misses)) & (hits >= LEAST_RECALL)
    places = np.flatnonzero(good)
    return float(scores[order[places[-1]]]) - 1e-6 if len(places) else None
