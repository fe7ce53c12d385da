"""Makes a classifier's scores probabilities that hold what they say; numpy only.

Temperature scaling (Guo et al. 2017): all scores are divided by one number, chosen so that the
labels of texts nobody learnt from get the highest likelihood. The order of the labels stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chatlm_emotion.scoring import Floats

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures that are tried."""


def probabilities(scores: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """The softmax of scores, each row divided by the temperature first."""
    scaled = scores.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares


def temperature(scores: Floats, truth: Sequence[int]) -> float:
    """The temperature that gives the true labels the highest likelihood.

    Args:
        scores: logits of texts that nobody learnt from, `(texts, labels)`.
        truth: the true label of each, as its column.
    """
    true = np.asarray(truth)

    def loss(logarithm: float) -> float:
        found = probabilities(scores, float(np.exp(logarithm)))[np.arange(len(true)), true]
        return float(-np.log(np.maximum(found, 1e-300)).mean())

    from scipy.optimize import minimize_scalar

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return float(np.exp(found.x))
