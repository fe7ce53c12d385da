"""Draws an evaluation into a picture file: the confusion matrix, and how calibrated it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chatlm import UsageError
from chatlm_emotion.scoring import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _GREY = "#0072b2", "#777777"


def save(scores: Scores, title: str, path: Path) -> None:
    """Draw both side by side.

    Args:
        scores: to draw.
        title: above them.
        path: its suffix says what kind of picture.

    Raises:
        UsageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = picture.subplots(1, 2)
    _confusion(left, scores)
    _reliability(right, scores)
    picture.suptitle(title, parse_math=False)
    try:
        picture.savefig(path, dpi=150)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error


def _confusion(axes: Axes, scores: Scores) -> None:
    shares = [[count / max(sum(row), 1) for count in row] for row in scores.confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(scores.labels))
    axes.set_xticks(places, list(scores.labels), rotation=45, ha="right")
    axes.set_yticks(places, list(scores.labels))
    axes.set_xlabel("chosen")
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


def _reliability(axes: Axes, scores: Scores) -> None:
    full = [each for each in scores.bins if each.count]
    axes.plot([0, 1], [0, 1], "--", color=_GREY, label="perfectly calibrated")
    axes.bar(
        [each.low for each in full],
        [each.accuracy for each in full],
        width=[each.high - each.low for each in full],
        align="edge", color=_BLUE, alpha=0.35, edgecolor=_BLUE, label="share that is right",
    )  # fmt: skip
    axes.plot(
        [each.confidence for each in full], [each.accuracy for each in full], "o", color=_BLUE,
        label="mean probability of a bin",
    )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("probability of the chosen label")
    axes.set_ylabel("share that is right")
    axes.set_title(f"calibration error {scores.ece.value:.3f}")
    axes.legend(loc="upper left", frameon=False)
