"""Accuracy, F1 and calibration error with bootstrap intervals; temperature scaling.

Expected calibration error (Guo et al. 2017): predictions are put into 15 bins of equal width by
their probability, and the gaps between mean probability and accuracy are averaged, weighted by the
size of the bins.

Temperature scaling (Guo et al. 2017): all logits are divided by one number, chosen to maximise the
likelihood of held-out labels. The order of the labels stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15

BOOTSTRAP_SAMPLES = 1000
"""Bootstrap samples for the intervals."""

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions with a probability in one range."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean probability of the predicted label; 0 in an empty bin."""
    accuracy: float
    """Share of correct predictions; 0 in an empty bin."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "low": self.low,
            "high": self.high,
            "count": self.count,
            "confidence": self.confidence,
            "accuracy": self.accuracy,
        }


@dataclass(frozen=True)
class Scores:
    """Scores of predictions on labelled texts."""

    labels: tuple[str, ...]
    texts: int
    accuracy: Estimate
    macro_f1: Estimate
    """Unweighted mean of the F1 of the labels that some text has or was given."""
    ece: Estimate
    confusion: tuple[tuple[int, ...], ...]
    """Counts by true label (rows) and predicted label (columns), in the order of `labels`."""
    bins: tuple[CalibrationBin, ...]

    @property
    def per_label(self) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support of each label."""
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
    """Score predicted probabilities against the true labels.

    Args:
        probabilities: `(texts, labels)`, rows that sum to 1.
        true_labels: index in `label_names` of each text's label.
        label_names: the labels.
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
                _macro_f1(drawn),
                calibration_error(sure[rows], chosen[rows] == true[rows]),
            )
        )
    lows, highs = np.percentile(np.array(again), [2.5, 97.5], axis=0)
    values = (
        float((true == chosen).mean()),
        _macro_f1(table),
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
    """Return the expected calibration error, 0 to 1.

    Args:
        confidences: probability of each predicted label.
        correct: whether each prediction is correct.
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
    """Return precision, recall and F1 of each label; 0 instead of a division by zero."""
    right = np.diag(confusion).astype(float)
    precision = right / np.maximum(confusion.sum(0), 1)
    recall = right / np.maximum(confusion.sum(1), 1)
    return precision, recall, 2 * right / np.maximum(confusion.sum(0) + confusion.sum(1), 1)


def _macro_f1(confusion: NDArray[Any]) -> float:
    """Return the mean F1 of the labels that occur, as scikit-learn does without `labels`."""
    occurs = confusion.sum(0) + confusion.sum(1) > 0
    return float(_precision_recall_f1(confusion)[2][occurs].mean())


MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Range of the search."""


def softmax(logits: FloatArray, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the softmax of each row divided by the temperature."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares


def fit_temperature(logits: FloatArray, true_labels: Sequence[int]) -> float:
    """Return the temperature that maximises the likelihood of the true labels.

    Args:
        logits: logits of held-out texts, `(texts, labels)`.
        true_labels: column of each text's label.
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
