"""Evaluate a classifier on labelled texts, and plot the result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm import UsageError
from chatlm_emotion.classifier import Classifier
from chatlm_emotion.examples import LabelledDataset
from chatlm_emotion.metrics import Scores, score_predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation."""

    scores: Scores | None
    """Scores of the most probable label of each labelled text, whatever the threshold; None without
    such a text."""
    threshold: float
    unsure_share: float
    """Share of the labelled texts whose most probable label is below the threshold; 0 if there are
    none."""
    sure_accuracy: float
    """Accuracy on the others; 0 if there are none."""
    unlabelled: int
    """Number of texts without a label."""
    unsure_unlabelled_share: float
    """Share of them that the classifier is unsure of or calls neutral; 0 if there are none."""
    neutral_unlabelled_share: float
    """Share of them that it calls neutral; 0 if there are none."""
    neutral_share: float
    """Share of the labelled texts that it calls neutral; 0 if there are none."""
    milliseconds_per_text: float
    """Mean time per text."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            **({"texts": 0} if self.scores is None else _scores_to_dict(self.scores)),
            "threshold": self.threshold,
            "unsure": self.unsure_share,
            "sure_accuracy": self.sure_accuracy,
            "without_label": self.unlabelled,
            "unsure_without_label": self.unsure_unlabelled_share,
            "neutral_without_label": self.neutral_unlabelled_share,
            "neutral": self.neutral_share,
            "milliseconds": self.milliseconds_per_text,
        }


def evaluate(
    classifier: Classifier,
    dataset: LabelledDataset,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Evaluate a classifier on labelled texts.

    Args:
        classifier: the classifier.
        dataset: texts with labels of the classifier.
        on_progress: called with the number of texts done since the last call.

    Raises:
        UsageError: the dataset has a label that the classifier lacks, or no text.
    """
    card = classifier.card
    if unknown := sorted(set(dataset.labels) - set(card.labels)):
        raise UsageError(
            f"The classifier {card.name} has no label {unknown[0]!r}.",
            hint=f"It has: {', '.join(card.labels)}",
        )
    labelled = [row for row in dataset.rows if row.label is not None]
    others = [row for row in dataset.rows if row.label is None]
    if not dataset.rows:
        raise UsageError(f"{', '.join(dataset.file_names)} has no text.")
    start = time.perf_counter()
    read = classifier.read([row.text for row in (*labelled, *others)], on_progress)
    spent = time.perf_counter() - start
    found, sure = read.probabilities, read.sure
    neutral_ones, neutral_others = read.neutral[: len(labelled)], read.neutral[len(labelled) :]
    chosen = found.argmax(1)[: len(labelled)]
    truth = [card.labels.index(row.label or "") for row in labelled]
    right = chosen == truth
    mine, theirs = sure[: len(labelled)], sure[len(labelled) :]
    return Evaluation(
        scores=score_predictions(found[: len(labelled)], truth, card.labels) if labelled else None,
        threshold=card.threshold,
        unsure_share=float(1 - mine.mean()) if labelled else 0.0,
        sure_accuracy=float(right[mine].mean()) if mine.any() else 0.0,
        unlabelled=len(others),
        unsure_unlabelled_share=float(1 - theirs.mean()) if others else 0.0,
        neutral_unlabelled_share=float(neutral_others.mean()) if others else 0.0,
        neutral_share=float(neutral_ones.mean()) if labelled else 0.0,
        milliseconds_per_text=spent / len(dataset.rows) * 1000,
    )


def _scores_to_dict(scores: Scores) -> dict[str, Any]:
    measures = {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1, "ece": scores.ece}
    return {
        **{name: measure.value for name, measure in measures.items()},
        "intervals": {name: [each.low, each.high] for name, each in measures.items()},
        "texts": scores.texts,
        "labels": scores.per_label,
        "confusion": [list(row) for row in scores.confusion],
        "bins": [each.to_dict() for each in scores.bins],
    }


_BLUE, _GREY = "#0072b2", "#777777"


def save_figure(scores: Scores, title: str, path: Path) -> None:
    """Plot the confusion matrix beside the reliability diagram.

    Args:
        scores: the scores.
        title: title of the figure.
        path: the image file; its suffix is the format.

    Raises:
        UsageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = picture.subplots(1, 2)
    _plot_confusion(left, scores)
    _plot_reliability(right, scores)
    picture.suptitle(title, parse_math=False)
    try:
        picture.savefig(path, dpi=150)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error


def _plot_confusion(axes: Axes, scores: Scores) -> None:
    shares = [[count / max(sum(row), 1) for count in row] for row in scores.confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(scores.labels))
    axes.set_xticks(places, list(scores.labels), rotation=45, ha="right")
    axes.set_yticks(places, list(scores.labels))
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(scores.labels) > 20:
        return
    for row in places:
        for column in places:
            dark = shares[row][column] > 0.6
            axes.text(
                column, row, str(scores.confusion[row][column]), ha="center", va="center",
                fontsize=9, color="white" if dark else "black",
            )  # fmt: skip


def _plot_reliability(axes: Axes, scores: Scores) -> None:
    full = [each for each in scores.bins if each.count]
    axes.plot([0, 1], [0, 1], "--", color=_GREY, label="perfectly calibrated")
    axes.bar(
        [each.low for each in full],
        [each.accuracy for each in full],
        width=[each.high - each.low for each in full],
        align="edge", color=_BLUE, alpha=0.35, edgecolor=_BLUE, label="accuracy",
    )  # fmt: skip
    axes.plot(
        [each.confidence for each in full], [each.accuracy for each in full], "o", color=_BLUE,
        label="mean probability of a bin",
    )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("probability of the predicted label")
    axes.set_ylabel("accuracy")
    axes.set_title(f"calibration error {scores.ece.value:.3f}")
    axes.legend(loc="upper left", frameon=False)
