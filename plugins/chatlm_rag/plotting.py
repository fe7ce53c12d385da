"""Draws a scorecard and an abstention curve into a picture file; knows no index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chatlm import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from chatlm_rag.abstaining import Point
    from chatlm_rag.scorecard import Scorecard

SUFFIXES = (".png", ".svg", ".pdf")

_COLOURS = {"dense": "#0072b2", "lexical": "#d55e00", "fused": "#009e73"}
"""Told apart by people who see few colours."""


def check(path: Path) -> None:
    """See that a picture can be put there, before the work that it shows.

    Raises:
        UsageError: it cannot.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} is no picture's name.", hint=f"It ends in {', '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}.", hint="Make it first.")


def save_scorecard(card: Scorecard, title: str, path: Path) -> None:
    """Draw every measure of each kind, with its interval.

    Args:
        card: to draw.
        title: above it.
        path: the suffix, one of `SUFFIXES`, says what kind of picture.

    Raises:
        UsageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8, 4.5), layout="constrained")
    axes = picture.subplots()
    for offset, (kind, figures) in zip((-0.22, 0.0, 0.22), card.figures.items(), strict=True):
        means = [figure.mean for figure in figures.values()]
        axes.errorbar(
            means,
            [row + offset for row in range(len(means))],
            xerr=[
                [figure.mean - figure.low for figure in figures.values()],
                [figure.high - figure.mean for figure in figures.values()],
            ],
            fmt="o",
            capsize=3,
            color=_COLOURS[kind],
            label=kind,
            clip_on=False,
        )
        for row, mean in enumerate(means):
            axes.annotate(
                f"{mean:.3f}", (1.01, row + offset), xycoords=("axes fraction", "data"),
                va="center", fontsize=8, color=_COLOURS[kind],
            )  # fmt: skip
    axes.set_yticks(range(len(card.figures["fused"])), list(card.figures["fused"]))
    axes.invert_yaxis()
    axes.set_xlim(right=1.0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(title, parse_math=False)
    axes.set_xlabel("mean over the questions, with 95 % intervals")
    picture.legend(loc="outside lower center", ncols=3, frameon=False)
    _save(picture, path)


def save_curves(curves: Mapping[str, Sequence[Point]], threshold: float, path: Path) -> None:
    """Draw what thresholds on the confidence would do.

    Args:
        curves: by what the unanswerable questions are; the answerable ones are the same in all.
        threshold: the one that is in use.
        path: see `save_scorecard`.

    Raises:
        UsageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8, 4.5), layout="constrained")
    axes = picture.subplots()
    for name, points in curves.items():
        axes.step(
            [point.threshold for point in points],
            [point.refused for point in points],
            label=f"unanswerable, {name}: refused",
        )
    points = next(iter(curves.values()))
    axes.step(
        [point.threshold for point in points],
        [point.kept for point in points],
        label="answerable: kept",
        color=_COLOURS["fused"],
    )
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label="threshold in use")
    axes.set_xlabel("threshold on the confidence")
    axes.set_ylabel("part of the questions")
    axes.grid(alpha=0.3)
    picture.legend(loc="outside lower center", ncols=2, frameon=False)
    _save(picture, path)


def _save(picture: Figure, path: Path) -> None:
    try:
        picture.savefig(path, dpi=150)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
