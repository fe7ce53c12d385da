"""Measures a classifier on labelled texts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chatlm import UsageError
from chatlm_emotion.classifier import Classifier
from chatlm_emotion.examples import Examples
from chatlm_emotion.scoring import Scores, score


@dataclass(frozen=True)
class Evaluation:
    """What was found."""

    scores: Scores
    """Of the likeliest label of each text that has one, whether or not it is likely enough."""
    threshold: float
    unsure: float
    """Share of these texts whose likeliest label is below the threshold."""
    sure_accuracy: float
    """Share of the others that is right; 0 where there are none."""
    without_label: int
    """Texts that have none."""
    unsure_without_label: float
    """Share of those that the classifier is unsure of; 0 where there are none."""
    milliseconds: float
    """For a text."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON; the three measures by their usual names."""
        scores = self.scores
        measures = {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1, "ece": scores.ece}
        return {
            **{name: measure.value for name, measure in measures.items()},
            "intervals": {name: [each.low, each.high] for name, each in measures.items()},
            "texts": scores.texts,
            "labels": scores.by_label,
            "confusion": [list(row) for row in scores.confusion],
            "bins": [each.to_dict() for each in scores.bins],
            "threshold": self.threshold,
            "unsure": self.unsure,
            "sure_accuracy": self.sure_accuracy,
            "without_label": self.without_label,
            "unsure_without_label": self.unsure_without_label,
            "milliseconds": self.milliseconds,
        }


def evaluate(
    classifier: Classifier, data: Examples, progress: Callable[[int], None] | None = None
) -> Evaluation:
    """Classify labelled texts and compare.

    Args:
        classifier: to measure.
        data: whose labels are the classifier's.
        progress: told how many more texts are done.

    Raises:
        UsageError: a label is not one of the classifier's.
    """
    card = classifier.card
    if unknown := sorted(set(data.labels) - set(card.labels)):
        raise UsageError(
            f"The classifier {card.name} knows no label {unknown[0]!r}.",
            hint=f"It knows: {', '.join(card.labels)}",
        )
    labelled = [row for row in data.rows if row.label is not None]
    others = [row for row in data.rows if row.label is None]
    start = time.perf_counter()
    found = classifier.probabilities([row.text for row in (*labelled, *others)], progress)
    spent = time.perf_counter() - start
    sure = found.max(1) >= card.threshold
    chosen = found.argmax(1)[: len(labelled)]
    truth = [card.labels.index(row.label or "") for row in labelled]
    right = chosen == truth
    mine, theirs = sure[: len(labelled)], sure[len(labelled) :]
    return Evaluation(
        scores=score(found[: len(labelled)], truth, card.labels),
        threshold=card.threshold,
        unsure=float(1 - mine.mean()),
        sure_accuracy=float(right[mine].mean()) if mine.any() else 0.0,
        without_label=len(others),
        unsure_without_label=float(1 - theirs.mean()) if others else 0.0,
        milliseconds=spent / len(data.rows) * 1000,
    )
