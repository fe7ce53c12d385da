"""Accuracy, F1, ECE; temperature scaling.

The expected calibration error is that of Guo et al. (2017): texts are put into 15 bins of equal
width by the probability of the label that was chosen, and the gaps between that and the share that
is right are averaged by the bins' sizes.

Temperature scaling (Guo et al. 2017): all scores are divided by one number, chosen so that the
labels of texts nobody learnt from get the highest likelihood. The order of the labels stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15


BOOTSTRAP_SAMPLES = 1000
"""How often the texts are drawn anew for the intervals."""


FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Estimate:
    """A value with the interval that has it in 95 of 100 draws of as many texts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CalibrationBin:
    """The texts whose label was chosen with a probability in one range."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean probability of the chosen label; 0 in an empty bin."""
    accuracy: float
    """Share that is right; 0 in an empty bin."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "low": self.low,
            "high": self.high,
            "count": self.count,
            "confidence": self.confidence,
            "accuracy": self.accuracy,
        }


@dataclass(frozen=True)
class Scores:
    """What an evaluation found."""

    labels: tuple[str, ...]
    texts: int
    accuracy: Estimate
    macro_f1: Estimate
    """The mean over the labels of the harmonic mean of precision and recall."""
    ece: Estimate
    confusion: tuple[tuple[int, ...], ...]
    """By true label (rows) and chosen label (columns), in the order of `labels`."""
    bins: tuple[CalibrationBin, ...]

    @property
    def per_label(self) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and number of texts of each label."""
        table = np.array(self.confusion)
        precision, recall, f1 = _precision_recall_f1(table)
        return {
            label: {
                "precision": float(precision[row]),
                "recall": float(recall[row]),
                "f1": float(f1[row]),
                "texts": int(table[row].sum()),
            }
            for row, label in enumerate(self.labels)
        }


def score_predictions(
    probabilities: FloatArray, true_labels: Sequence[int], label_names: Sequence[str]
) -> Scores:
    """Compare probabilities with the true labels.

    Args:
        probabilities: `(texts, labels)`, rows that sum to 1.
        true_labels: the true label of each text, as its place in `label_names`.
        label_names: their names.
    """
    true = np.asarray(true_labels)
    chosen, sure = probabilities.argmax(1), probabilities.max(1)
    table = _confusion_matrix(true, chosen, len(label_names))
    draws = np.random.default_rng(0).integers(len(true), size=(BOOTSTRAP_SAMPLES, len(true)))
    again: list[tuple[float, float, float]] = []
    for rows in draws:
        drawn = _confusion_matrix(true[rows], chosen[rows], len(label_names))
        again.append(
            (
                float((true[rows] == chosen[rows]).mean()),
                float(_precision_recall_f1(drawn)[2].mean()),
                calibration_error(sure[rows], chosen[rows] == true[rows]),
            )
        )
    lows, highs = np.percentile(np.array(again), [2.5, 97.5], axis=0)
    values = (
        float((true == chosen).mean()),
        float(_precision_recall_f1(table)[2].mean()),
        calibration_error(sure, chosen == true),
    )
    accuracy, macro_f1, ece = (
        Estimate(value, float(low), float(high))
        for value, low, high in zip(values, lows, highs, strict=True)
    )
    return Scores(
        labels=tuple(label_names),
        texts=len(true),
        accuracy=accuracy,
        macro_f1=macro_f1,
        ece=ece,
        confusion=tuple(tuple(int(count) for count in row) for row in table),
        bins=tuple(_calibration_bins(sure, chosen == true)),
    )


def calibration_error(confidences: FloatArray, correct: NDArray[np.bool_]) -> float:
    """The expected calibration error, 0 to 1.

    Args:
        confidences: the probability of each chosen label.
        correct: whether it is the true one.
    """
    which = _bin_indices(confidences)
    gaps = np.bincount(which, weights=confidences - correct, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def _calibration_bins(confidences: FloatArray, correct: NDArray[np.bool_]) -> list[CalibrationBin]:
    which = _bin_indices(confidences)
    found = []
    for number in range(ECE_BINS):
        inside = which == number
        count = int(inside.sum())
        confidence = float(confidences[inside].mean()) if count else 0.0
        accuracy = float(correct[inside].mean()) if count else 0.0
        found.append(
            CalibrationBin(number / ECE_BINS, (number + 1) / ECE_BINS, count, confidence, accuracy)
        )
    return found


def _bin_indices(confidences: FloatArray) -> NDArray[np.intp]:
    return np.minimum((confidences * ECE_BINS).astype(np.intp), ECE_BINS - 1)


def _confusion_matrix(
    true_labels: NDArray[Any], predicted: NDArray[Any], num_labels: int
) -> NDArray[np.intp]:
    return np.bincount(true_labels * num_labels + predicted, minlength=num_labels**2).reshape(
        num_labels, num_labels
    )


def _precision_recall_f1(confusion: NDArray[Any]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Precision, recall and F1 of each label; 0 where there is nothing to divide by."""
    right = np.diag(confusion).astype(float)
    precision = right / np.maximum(confusion.sum(0), 1)
    recall = right / np.maximum(confusion.sum(1), 1)
    return precision, recall, 2 * right / np.maximum(confusion.sum(0) + confusion.sum(1), 1)


MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Temperatures that are tried."""


def softmax(logits: FloatArray, temperature: float = 1.0) -> NDArray[np.float64]:
    """The softmax of scores, each row divided by the temperature first."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares


def fit_temperature(logits: FloatArray, true_labels: Sequence[int]) -> float:
    """The temperature that gives the true labels the highest likelihood.

    Args:
        logits: logits of texts that nobody learnt from, `(texts, labels)`.
        true_labels: the true label of each, as its column.
    """
    true = np.asarray(true_labels)

    def loss(logarithm: float) -> float:
        found = softmax(logits, float(np.exp(logarithm)))[np.arange(len(true)), true]
        return float(-np.log(np.maximum(found, 1e-300)).mean())

    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        loss, bounds=(np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)), method="bounded"
    )
    return float(np.exp(found.x))
